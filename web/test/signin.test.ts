import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { forgetPerson, giveName, haveSignedIn, haveSignedOut, last, mustAskAgain, nameGiven } from '../src/shell/left';
import { Auth, mayBeOf } from '../src/signin/auth';
import { endsAtFirebase, endsAtIssuer } from '../src/signin/ends';
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

describe('a link with a token', () => {
  /** The page of a service where people sign in in one way. */
  async function begin(kind: string, token: string | null) {
    vi.useFakeTimers();
    const asked: (string | null)[] = [];
    vi.stubGlobal('location', { pathname: '/' });
    vi.stubGlobal('history', { replaceState: () => {} });
    vi.stubGlobal('fetch', (path: string, init: { headers?: Record<string, string> } = {}) => {
      if (path === '/config.json') return Promise.resolve(Response.json({ version: '1', auth: { kind }, resgate: null }));
      asked.push(init.headers?.authorization ?? null);
      return Promise.resolve(Response.json({ subject: 'mia', role: 'merchant', verbs: ['look'], all_shops: false, more: false, shops: [] }));
    });
    const auth = new Auth();
    await auth.begin(token);
    return { auth, asked };
  }
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it.each([
    ['dev', 'signed_in'],
    ['token', 'signed_in'],
    ['firebase', 'signed_out'],
    ['oidc', 'signed_out'],
  ])('signs in with %s as it should: %s', async (kind, stage) => {
    const { auth, asked } = await begin(kind, 'a.b.c');
    expect(auth.state.stage).toBe(stage);
    await auth.takeLink('d.e.f');
    expect(asked).toEqual(stage === 'signed_in' ? ['Bearer a.b.c'] : []);
  });

  it('signs in where nobody is, and makes nobody of a somebody', async () => {
    const { auth, asked } = await begin('token', null);
    await auth.takeLink('a.b.c');
    await auth.takeLink('d.e.f');
    expect(asked).toEqual(['Bearer a.b.c']);
    expect(auth.token()).toBe('a.b.c');
  });
});

describe('a renewal that is refused', () => {
  it.each([
    ['invalid_grant', true],
    ['login_required', true],
    ['interaction_required', true],
    ['temporarily_unavailable', false],
    ['server_error', false],
    ['invalid_client', false],
    [null, false],
  ])('by an issuer with %s ends the sign-in: %s', (error, ends) => {
    expect(endsAtIssuer(error)).toBe(ends);
  });
  it.each([
    ['auth/user-token-expired', true],
    ['auth/user-disabled', true],
    ['auth/invalid-user-token', true],
    ['auth/network-request-failed', false],
    ['auth/too-many-requests', false],
    ['auth/internal-error', false],
  ])('by Firebase with %s ends the sign-in: %s', (code, ends) => {
    expect(endsAtFirebase(code)).toBe(ends);
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
  beforeEach(() => {
    const storage = {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, value: string) => kept.set(key, value),
      removeItem: (key: string) => kept.delete(key),
    };
    vi.stubGlobal('sessionStorage', storage);
    vi.stubGlobal('localStorage', storage);
  });

  it('is to be asked for again after they have signed out, until somebody signs in', () => {
    expect(mustAskAgain()).toBe(false);
    haveSignedOut();
    expect(mustAskAgain()).toBe(true);
    haveSignedIn();
    expect(mustAskAgain()).toBe(false);
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
