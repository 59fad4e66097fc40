// A basket that needs somebody asks for attention: the number in the title of the page, words for a screen reader, and a sound where it
// is switched on. Each basket asks once for each thing, not as long as it lasts.

import { useEffect, useRef } from 'react';
import { useLocation } from 'wouter';
import { serverNow } from '../api/clock';
import { preferences } from '../look/preferences';
import { useNotices } from '../shell/notices';
import { useShop } from '../shell/shop';
import { shortOf, useTexts } from '../shell/use';
import { isHandled, type Need, needsOf } from './ordering';

const LOOK_EVERY_MS = 1_000;
/** So long a row that has begun to need somebody stands out more than the others that do. */
export const FRESH_MS = 8_000;

const begun = new Map<string, number>();

/** Whether it has only just begun to need somebody. */
export function hasJustBegun(session: string, now: number): boolean {
  const at = begun.get(session);
  return at !== undefined && now - at < FRESH_MS;
}

let audio: AudioContext | null = null;

/** Two short tones, soft enough for a shop. */
export function ring(): void {
  try {
    audio ??= new AudioContext();
    void audio.resume();
    const at = audio.currentTime;
    [660, 880].forEach((pitch, step) => {
      if (audio === null) return;
      const tone = audio.createOscillator();
      const volume = audio.createGain();
      const begins = at + step * 0.16;
      tone.frequency.value = pitch;
      volume.gain.setValueAtTime(0, begins);
      volume.gain.linearRampToValueAtTime(0.12, begins + 0.02);
      volume.gain.exponentialRampToValueAtTime(0.001, begins + 0.3);
      tone.connect(volume).connect(audio.destination);
      tone.start(begins);
      tone.stop(begins + 0.32);
    });
  } catch {
    // No sound on this device.
  }
}

export function useAttention(): void {
  const texts = useTexts();
  const { store, shop } = useShop();
  const { announce } = useNotices();
  const [path] = useLocation();
  const known = useRef<Map<string, Set<Need>> | null>(null);
  useEffect(() => {
    known.current = null;
    begun.clear();
  }, [store]);
  useEffect(() => {
    const rest = `${shop.name ?? texts.nav.board} – ${texts.appName}`;
    const look = () => {
      const now = serverNow();
      const before = known.current;
      const seen = new Map<string, Set<Need>>();
      let waiting = 0;
      const news: string[] = [];
      for (const row of store.all()) {
        const needs = needsOf(row, now);
        if (needs.length === 0) continue;
        seen.set(row.session, new Set(needs));
        if (isHandled(row, now)) continue;
        waiting += 1;
        const fresh = needs.find((need) => !before?.get(row.session)?.has(need));
        if (before === null || fresh === undefined) continue;
        begun.set(row.session, now);
        const why = {
          parked: texts.board.parked,
          diverged: texts.verdict.diverged ?? '',
          findings: texts.board.findings(row.findings),
          missing: texts.board.missing(row.missing),
          untouched: texts.board.untouched(texts.age((now - row.touchedAt) / 1000)),
        }[fresh];
        news.push(texts.board.attention(shortOf(row.session), why));
      }
      for (const session of begun.keys()) if (!hasJustBegun(session, now)) begun.delete(session);
      if (store.signalled.loaded) known.current = seen;
      document.title = texts.board.titleCount(waiting, rest);
      if (news.length > 0) {
        announce(news.length > 3 ? texts.board.needs(waiting) : news.join('. '));
        if (preferences().sound) ring();
      }
    };
    look();
    const timer = setInterval(look, LOOK_EVERY_MS);
    return () => {
      clearInterval(timer);
      document.title = texts.appName;
    };
  }, [store, shop.name, texts, announce, path]);
}
