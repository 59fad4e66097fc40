import { describe, expect, it, vi } from 'vitest';
import { forgetPerson, giveName, last, nameGiven } from '../src/shell/left';
import { mayBeOf } from '../src/signin/auth';
import { claimsOf, takeTokenOfLink } from '../src/signin/token';
import { languageOf } from '../src/texts/texts';
import { SHOP } from './made';

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

describe('an address that is open when somebody signs in', () => {
  const own = { shop_id: SHOP, name: null, currency: null, time_zone: null };
  const other = '/shops/7c29b2d3-7c8a-446e-a4e1-d8e2a51c0e96';
  it.each([
    ['their own shop', { shops: [own] }, `/shops/${SHOP.toUpperCase()}/history`, true],
    ['somebody else’s', { shops: [own] }, other, false],
    ['somebody else’s basket', { shops: [] }, `${other}/baskets/x`, false],
    ['one of all', { all_shops: true }, other, true],
    ['one that may be among those that are not listed', { shops: [own], more: true }, other, true],
    ['no shop', { shops: [own] }, '/operations', true],
  ])('is kept where it is theirs: %s', (_, me, path, kept) => {
    expect(mayBeOf({ all_shops: false, more: false, shops: [], ...me }, path)).toBe(kept);
  });
});

describe('what a person leaves', () => {
  const kept = new Map<string, string>();
  vi.stubGlobal('sessionStorage', {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => kept.set(key, value),
    removeItem: (key: string) => kept.delete(key),
  });

  it('is theirs alone, and gone when they go', () => {
    giveName('mia', 'Mia');
    last.shop = SHOP;
    last.basket = 'basket';
    expect(nameGiven('mia')).toBe('Mia');
    expect(nameGiven('ben')).toBeNull();
    expect(nameGiven(null)).toBeNull();
    forgetPerson();
    expect(nameGiven('mia')).toBeNull();
    expect(last).toEqual({ shop: null, basket: null });
    expect(kept.size).toBe(0);
  });

  it('is nothing where what is kept is not ours', () => {
    for (const strange of ['Mia', '{}', 'null', '[1,2]']) {
      kept.set('ezout.name', strange);
      expect(nameGiven(null)).toBeNull();
    }
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
