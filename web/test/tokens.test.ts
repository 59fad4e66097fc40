// What is drawn stands out from what it is drawn on, in both schemes (WCAG 1.4.11).

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const tokens = readFileSync(join(import.meta.dirname, '../src/look/tokens.css'), 'utf8');

function colours(name: string): string[] {
  const found = new RegExp(`--${name}: light-dark\\((#[0-9a-f]{6}), (#[0-9a-f]{6})\\)`).exec(tokens);
  if (found === null) throw new Error(`no colour ${name}`);
  return found.slice(1);
}

function luminance(colour: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one: string, other: string): number {
  const [dark = 0, light = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

describe('what is drawn', () => {
  it.each([
    ['chart-events', 'surface'],
    ['chart-takings', 'surface'],
    ['chart-takings', 'chart-events'],
    ['accent', 'past-soft'],
    ['bad-line', 'past-soft'],
    ['warn-line', 'past-soft'],
  ])('%s stands out from %s', (drawn, ground) => {
    const grounds = colours(ground);
    for (const [scheme, colour] of colours(drawn).entries()) expect(contrast(colour, grounds[scheme] ?? '')).toBeGreaterThanOrEqual(3);
  });
});
