import { describe, expect, it, vi } from 'vitest';
import { ambiguity, amountOf, dayStart, formatsOf } from '../src/look/money';

/** Numbers of some locales have blanks of their own kinds. */
const plain = (text: string) => text.replace(/[\u00a0\u202f]/g, ' ');

describe('money and times', () => {
  it.each([
    ['en-GB', 'EUR', 1234.5, '€1,234.50'],
    ['de-DE', 'EUR', 1234.5, '1.234,50 €'],
    ['de-DE', 'JPY', 1234, '1.234 ¥'],
    ['en-GB', null, 1234.5, '1,234.50'],
    ['en-GB', 'nothing', 3, '3.00'],
    ['en-GB', 'EUR', 0.0375, '€0.0375'],
    ['en-GB', 'EUR', -0, '€0.00'],
  ])('%s %s: %d is %s', (locale, currency, amount, text) => {
    expect(plain(formatsOf(locale, currency, 'UTC').money(amount))).toBe(text);
  });

  it('has a sign for what changes', () => {
    const { moneyChange } = formatsOf('en-GB', 'EUR', 'UTC');
    expect([moneyChange(2.5), moneyChange(-2.5), moneyChange(0)]).toEqual(['+€2.50', '-€2.50', '€0.00']);
  });

  it('tells the year where it is not this one, by the clock of the shop', () => {
    const { dayAndTime } = formatsOf('en-GB', null, 'Pacific/Auckland');
    vi.useFakeTimers({ now: Date.parse('2026-12-31T12:00:00Z') });
    try {
      // There the next year has begun.
      expect(dayAndTime(Date.parse('2026-12-31T11:30:00Z'))).not.toMatch(/202\d/);
      expect(dayAndTime(Date.parse('2026-12-31T10:30:00Z'))).toMatch(/2026/);
    } finally {
      vi.useRealTimers();
    }
  });

  it('tells times in the zone of the shop, and in that of the reader where the shop has none that exists', () => {
    const at = Date.parse('2026-03-01T23:30:00Z');
    expect(formatsOf('en-GB', null, 'Europe/Berlin').clock(at)).toBe('00:30');
    expect(formatsOf('en-GB', null, 'Europe/Berlin').dayKey(at)).toBe('2026-03-02');
    expect(formatsOf('en-GB', null, 'Not/AZone').timeZone).toBe(Intl.DateTimeFormat().resolvedOptions().timeZone);
  });

  it.each([
    ['2026-03-01', 'Europe/Berlin', '2026-02-28T23:00:00.000Z'],
    ['2026-03-29', 'Europe/Berlin', '2026-03-28T23:00:00.000Z'],
    ['2026-03-30', 'Europe/Berlin', '2026-03-29T22:00:00.000Z'],
    ['2026-10-25', 'Europe/Berlin', '2026-10-24T22:00:00.000Z'],
    ['2026-10-26', 'Europe/Berlin', '2026-10-25T23:00:00.000Z'],
    ['2026-03-01', 'Pacific/Auckland', '2026-02-28T11:00:00.000Z'],
    ['2026-03-01', 'America/Los_Angeles', '2026-03-01T08:00:00.000Z'],
    ['2026-03-01', 'UTC', '2026-03-01T00:00:00.000Z'],
  ])('the day %s begins in %s at %s', (day, zone, begins) => {
    expect(dayStart(day, zone).toISOString()).toBe(begins);
  });

  it.each([
    ['3.50', 3.5],
    ['3,50', 3.5],
    [' 12 ', 12],
    ['−0,5', -0.5],
    ['+2', 2],
    ['1.23456', null],
    ['1e3', null],
    ['', null],
    ['abc', null],
    ['0x10', null],
  ])('reads %j as %s', (text, amount) => {
    expect(amountOf(text, 'fr-FR')).toBe(amount);
  });

  it.each([
    ['1,234', 'en-GB', { thousands: '1234', decimal: '1.234' }],
    ['-12,500', 'en-GB', { thousands: '-12500', decimal: '-12.500' }],
    ['1.234', 'de-DE', { thousands: '1234', decimal: '1,234' }],
  ])('does not guess what %j is in %s', (text, locale, ways) => {
    expect(amountOf(text, locale)).toBeNull();
    expect(ambiguity(text, locale)).toEqual(ways);
    expect(amountOf(ways.thousands, locale)).toBe(Number(ways.thousands));
    expect(amountOf(ways.decimal, locale)).toBe(Number(ways.decimal.replace(',', '.')));
  });

  it.each([
    ['1.234', 'en-GB', 1.234],
    ['1,234', 'de-DE', 1.234],
    ['3,50', 'en-GB', 3.5],
    ['1,2345', 'en-GB', 1.2345],
  ])('%j can only be one amount in %s', (text, locale, amount) => {
    expect(ambiguity(text, locale)).toBeNull();
    expect(amountOf(text, locale)).toBe(amount);
  });
});
