import { describe, expect, it } from 'vitest';
import { claimsOf, takeTokenOfLink } from '../src/signin/token';
import { languageOf } from '../src/texts/texts';

function link(url: string): { token: string | null; left: string } {
  const place = new URL(url);
  let left = '';
  const token = takeTokenOfLink(place as unknown as Location, { state: null, replaceState: (_: unknown, __: string, to: string) => (left = to) } as unknown as History);
  return { token, left };
}

describe('a token', () => {
  it('is taken from a link, and out of the address', () => {
    expect(link('http://127.0.0.1:8000/shops/S?show=all#token=a.b.c')).toEqual({ token: 'a.b.c', left: '/shops/S?show=all' });
    expect(link('http://127.0.0.1:8000/shops/S#other=1&token=a.b.c')).toEqual({ token: 'a.b.c', left: '/shops/S#other=1' });
  });

  it('is not looked for in what is not one', () => {
    expect(link('http://127.0.0.1:8000/shops/S#content')).toEqual({ token: null, left: '' });
    expect(link('http://127.0.0.1:8000/shops/S#token=')).toEqual({ token: null, left: '/shops/S' });
  });

  it('says when it ends, and nothing where it is none', () => {
    const body = Buffer.from(JSON.stringify({ exp: 5, name: 'Zoë' })).toString('base64url');
    expect(claimsOf(`h.${body}.s`)).toEqual({ exp: 5, name: 'Zoë' });
    for (const none of ['', 'abc', 'a.%%%.c', `a.${Buffer.from('7').toString('base64url')}.c`]) expect(claimsOf(none)).toEqual({});
  });
});

describe('the language', () => {
  it.each([
    ['system', ['fr-FR', 'de-AT', 'en'], 'de'],
    ['system', ['fr-FR'], 'en'],
    ['system', [], 'en'],
    ['en', ['de-DE'], 'en'],
    ['de', ['en-GB'], 'de'],
  ] as const)('%s of %j is %s', (preferred, wanted, language) => {
    expect(languageOf(preferred, wanted)).toBe(language);
  });
});
