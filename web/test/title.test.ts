import { describe, expect, it } from 'vitest';
import { screenOf } from '../src/board/attention';
import { titleOf } from '../src/shell/title';
import { de } from '../src/texts/de';
import { en } from '../src/texts/en';
import { session } from './made';

describe('what the page is called', () => {
  it.each([
    ['', 'Live baskets', 'Körbe, live'],
    ['/history', 'History', 'Verlauf'],
    [`/baskets/${session(7)}`, 'Basket #000007', 'Korb #000007'],
  ])('begins with the screen: %s', (path, english, german) => {
    expect(titleOf(screenOf(path, en), 'Harbour Street', en.appName)).toBe(`${english} – Harbour Street – EzOut`);
    expect(titleOf(screenOf(path, de), null, de.appName)).toBe(`${german} – EzOut`);
  });
});
