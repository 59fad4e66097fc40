// Money, numbers and times, in the reader's locale, with the shop's currency and in its time zone.

import { serverNow } from '../api/clock';

export interface Formats {
  /** An amount; without a currency just the number. */
  money: (amount: number) => string;
  /** With a sign, also a plus. */
  moneyChange: (amount: number) => string;
  /** An amount in short, for an axis. */
  moneyShort: (amount: number) => string;
  number: (value: number) => string;
  clock: (at: number) => string;
  clockWithSeconds: (at: number) => string;
  day: (at: number) => string;
  /** With the year where it is not this one. */
  dayAndTime: (at: number) => string;
  /** The day, in the shop's time zone, as `2026-03-01`. */
  dayKey: (at: number) => string;
  timeZone: string;
  currency: string | null;
  locale: string;
}

export function formatsOf(locale: string, currency: string | null, timeZone: string | null): Formats {
  const zone = isTimeZone(timeZone) ? timeZone : Intl.DateTimeFormat().resolvedOptions().timeZone;
  const style: Intl.NumberFormatOptions = isCurrency(currency)
    ? { style: 'currency', currency }
    : { style: 'decimal', minimumFractionDigits: 2, maximumFractionDigits: 2 };
  const money = new Intl.NumberFormat(locale, style);
  // Prices have up to four decimals; what the currency has no coin for is shown only where it is there.
  const exact = new Intl.NumberFormat(locale, { ...style, maximumFractionDigits: 4 });
  const change = new Intl.NumberFormat(locale, { ...style, maximumFractionDigits: 4, signDisplay: 'exceptZero' });
  const short = new Intl.NumberFormat(locale, {
    ...style,
    minimumFractionDigits: 0,
    maximumFractionDigits: 0,
    notation: 'compact',
  });
  const number = new Intl.NumberFormat(locale);
  const clock = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', timeZone: zone });
  const withSeconds = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', second: '2-digit', timeZone: zone });
  const day = new Intl.DateTimeFormat(locale, { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric', timeZone: zone });
  const dayAndTime: Intl.DateTimeFormatOptions = {
    day: 'numeric',
    month: 'short',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    timeZone: zone,
  };
  const both = new Intl.DateTimeFormat(locale, dayAndTime);
  const ofAnotherYear = new Intl.DateTimeFormat(locale, { ...dayAndTime, year: 'numeric' });
  const key = new Intl.DateTimeFormat('en-CA', { year: 'numeric', month: '2-digit', day: '2-digit', timeZone: zone });
  const digits = money.resolvedOptions().maximumFractionDigits ?? 2;
  const fits = (amount: number) => Math.abs(amount * 10 ** digits - Math.round(amount * 10 ** digits)) < 1e-6;
  // "-0" is not an amount that anybody wants to read.
  const plain = (amount: number) => (Object.is(amount, -0) ? 0 : amount);
  return {
    money: (amount) => (fits(amount) ? money : exact).format(plain(amount)),
    moneyChange: (amount) => change.format(plain(amount)),
    moneyShort: (amount) => short.format(plain(amount)),
    number: (value) => number.format(value),
    clock: (at) => clock.format(at),
    clockWithSeconds: (at) => withSeconds.format(at),
    day: (at) => day.format(at),
    dayAndTime: (at) => (key.format(at).slice(0, 4) === key.format(serverNow()).slice(0, 4) ? both : ofAnotherYear).format(at),
    dayKey: (at) => key.format(at),
    timeZone: zone,
    currency: isCurrency(currency) ? currency : null,
    locale,
  };
}

function isCurrency(currency: string | null): currency is string {
  return currency !== null && /^[A-Za-z]{3}$/.test(currency);
}

function isTimeZone(zone: string | null): zone is string {
  if (zone === null) return false;
  try {
    new Intl.DateTimeFormat('en', { timeZone: zone });
    return true;
  } catch {
    return false;
  }
}

/** The beginning of a day (`2026-03-01`) in a time zone, also on days that have 23 or 25 hours. */
export function dayStart(day: string, timeZone: string): Date {
  const midnight = Date.parse(`${day}T00:00:00Z`);
  let at = midnight;
  // Twice: the first step may end on the other side of a change of the clock.
  for (let step = 0; step < 2; step += 1) at = midnight - offsetAt(at, timeZone);
  return new Date(at);
}

function offsetAt(at: number, timeZone: string): number {
  const parts = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
  }).formatToParts(at);
  const of = (type: string) => Number(parts.find((part) => part.type === type)?.value);
  return Date.UTC(of('year'), of('month') - 1, of('day'), of('hour'), of('minute'), of('second')) - Math.floor(at / 1000) * 1000;
}

/** An amount that a person wrote, with a decimal comma or point; null if it is none, or may be two. At most four decimals. */
export function amountOf(text: string, locale: string): number | null {
  if (ambiguity(text, locale) !== null) return null;
  const plain = withoutBlanks(text).replace(',', '.');
  return /^[-+]?\d{1,11}(\.\d{1,4})?$/.test(plain) ? Number(plain) : null;
}

/** How to write the two amounts that `1,234` may be where thousands are grouped by a comma, or `1.234` where they are by a point. */
export function ambiguity(text: string, locale: string): { thousands: string; decimal: string } | null {
  const parts = new Intl.NumberFormat(locale).formatToParts(1_234_567.8);
  const group = parts.find((part) => part.type === 'group')?.value;
  const written = /^([-+]?\d{1,11})([.,])(\d{3})$/.exec(withoutBlanks(text));
  if (written === null || written[2] !== group) return null;
  const [, whole, , rest] = written;
  return { thousands: `${whole}${rest}`, decimal: `${whole}${parts.find((part) => part.type === 'decimal')?.value ?? '.'}${rest}` };
}

function withoutBlanks(text: string): string {
  return text.trim().replace(/[\s\u00a0']/g, '').replace('−', '-');
}
