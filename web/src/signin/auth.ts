// Who is signed in. Tokens are in memory only: a reload signs out, and nothing is left on a shared tablet.

import { type Bearer, Client } from '../api/client';
import { serverNow } from '../api/clock';
import type { Problem } from '../api/problem';
import { problemOf, Unreachable } from '../api/problem';
import type { AuthConfig, Config, Me, Role } from '../api/types';
import type { Ending } from '../live/source';
import { forgetPerson, haveSignedOut } from '../shell/left';
import { claimsOf } from './token';

export interface SignedIn {
  token: string;
  /** A newer token, or null if there is none without the person. */
  renew: (() => Promise<string | null>) | null;
  end?: () => void;
  /** It came with the address, which is then where the person wants to be. */
  isOfLink?: boolean;
}

export type Why = Exclude<Ending, 'denied'> | 'not_allowed' | 'refused' | 'ended' | null;

export type AuthState =
  | { stage: 'starting' }
  | { stage: 'failed'; error: unknown }
  | { stage: 'signed_out'; why: Why }
  | { stage: 'signing_in' }
  | { stage: 'signed_in'; me: Me };

/** How long before its end a token is renewed. */
const EARLY_MS = 60_000;
const LOOK_EVERY_MS = 10_000;

export class Auth implements Bearer {
  readonly client = new Client(this);
  private state_: AuthState = { stage: 'starting' };
  private config_: Config | null = null;
  private signedIn: SignedIn | null = null;
  private chosen: string | null = null;
  /** Goes up with each sign-in and sign-out: an answer for an earlier one comes too late. */
  private entries = 0;
  private renewing: Promise<string | null> | null = null;
  /** The token of which a newer one was asked for before its end. */
  private renewedEarly: string | null = null;
  private readonly listeners = new Set<() => void>();

  constructor() {
    setInterval(() => this.renewEarly(), LOOK_EVERY_MS);
  }

  get state(): AuthState {
    return this.state_;
  }

  get config(): Config | null {
    return this.config_;
  }

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private become(state: AuthState): void {
    this.state_ = state;
    for (const listener of [...this.listeners]) listener();
  }

  /** Asks how people sign in here; with a token from a link somebody is signed in at once, where tokens are what people sign in with. */
  async begin(tokenOfLink: string | null): Promise<void> {
    this.become({ stage: 'starting' });
    try {
      const response = await fetch('/config.json');
      if (!response.ok) throw await problemOf(response);
      this.config_ = (await response.json()) as Config;
    } catch (error) {
      this.become({ stage: 'failed', error: error instanceof TypeError ? new Unreachable(error) : error });
      return;
    }
    const { auth } = this.config_;
    if (tokenOfLink !== null && takesLinks(auth)) await this.enter({ token: tokenOfLink, renew: null, isOfLink: true });
    else if (auth.kind === 'off') await this.enter(null);
    else if (auth.kind === 'oidc' && location.pathname === '/sign-in' && new URLSearchParams(location.search).has('state')) {
      this.become({ stage: 'signing_in' });
      try {
        const { comeBack } = await import('./oidc');
        const back = await comeBack(auth);
        history.replaceState(null, '', back.place);
        await this.enter(back);
      } catch {
        history.replaceState(null, '', '/sign-in');
        this.become({ stage: 'signed_out', why: 'refused' });
      }
    } else this.become({ stage: 'signed_out', why: null });
  }

  /** The name of whom somebody chose to be, where that can be chosen. */
  get chosenName(): string | null {
    return this.chosen;
  }

  /** Takes a token, and asks the service who that is. */
  async enter(signedIn: SignedIn | null): Promise<void> {
    this.signedIn = signedIn;
    this.entries += 1;
    const entry = this.entries;
    this.become({ stage: 'signing_in' });
    try {
      const me = await this.client.me();
      if (entry !== this.entries) return;
      if (!me.verbs.includes('look') && !me.verbs.includes('inspect')) {
        this.signedIn = null;
        this.become({ stage: 'signed_out', why: 'not_allowed' });
        return;
      }
      if (!signedIn?.isOfLink && !mayBeOf(me, location.pathname)) history.replaceState(null, '', '/');
      this.become({ stage: 'signed_in', me });
    } catch (error) {
      // A refused token has said so by itself already.
      if (entry === this.entries) this.become({ stage: 'failed', error });
    }
  }

  /** Signs in as one of the people of a machine where anybody may be anybody. */
  async be(person: { name: string; role: Role }, shop: string): Promise<void> {
    const ask = async () => {
      const response = await fetch('/dev/token', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ role: person.role, shop, name: person.name }),
      });
      if (!response.ok) throw await problemOf(response);
      return ((await response.json()) as { token: string }).token;
    };
    const token = await ask();
    this.chosen = person.name;
    await this.enter({ token, renew: ask });
  }

  /** Tries once more what could not be done since the service was not there. */
  async again(): Promise<void> {
    const { signedIn } = this;
    if (this.config_ === null || (signedIn === null && this.config_.auth.kind !== 'off')) await this.begin(null);
    else await this.enter(signedIn);
  }

  /** Somebody has opened a link with a token in the page as it is. It counts only where nobody is signed in: nobody becomes somebody else by a link. */
  async takeLink(token: string): Promise<void> {
    if (this.config_ === null) return this.begin(token);
    if (this.signedIn !== null || !takesLinks(this.config_.auth)) return;
    await this.enter({ token, renew: null, isOfLink: true });
  }

  private forget(): void {
    this.entries += 1;
    this.signedIn?.end?.();
    this.signedIn = null;
    this.chosen = null;
    forgetPerson();
  }

  /** Signs out. Whoever did so by hand leaves the address behind too; whom it happened to comes back to where they were. */
  leave(why: Why = 'ended'): void {
    this.forget();
    if (why === 'ended') {
      history.replaceState(null, '', '/');
      if (this.config_?.auth.kind === 'oidc') haveSignedOut();
    }
    if (this.config_?.auth.kind === 'off') {
      void this.begin(null);
      return;
    }
    this.become({ stage: 'signed_out', why });
  }

  token(): string | null {
    return this.signedIn?.token ?? null;
  }

  /** When the token ends, by its own word. */
  expiresAt(): number | null {
    const end = this.signedIn === null ? undefined : claimsOf(this.signedIn.token).exp;
    return end === undefined ? null : end * 1000;
  }

  get renews(): boolean {
    return this.signedIn?.renew != null;
  }

  renew(): Promise<string | null> {
    const current = this.signedIn;
    if (current === null || current.renew === null) return Promise.resolve(null);
    this.renewing ??= current
      .renew()
      .then((token) => {
        if (token !== null && this.signedIn === current) this.signedIn = { ...current, token };
        return token;
      })
      .finally(() => {
        this.renewing = null;
      });
    return this.renewing;
  }

  /** Once for each token, by the service's clock: one that lasts less than that would be renewed all the time. */
  private renewEarly(): void {
    const { signedIn } = this;
    const end = this.expiresAt();
    if (end === null || signedIn === null || signedIn.renew === null) return;
    if (end - serverNow() >= EARLY_MS || this.renewedEarly === signedIn.token) return;
    this.renewedEarly = signedIn.token;
    this.renew().catch(() => {
      // It was not reached, so it is asked again.
      this.renewedEarly = null;
    });
  }

  refused(problem: Problem): void {
    if (this.state_.stage === 'signed_out') return;
    this.leave(problem.code === 'token_revoked' ? 'revoked' : problem.code === 'token_expired' ? 'expired' : 'refused');
  }
}

/** Whether a link may sign somebody in: not where they do so with an issuer, for whoever sent the link would choose who they are. */
export function takesLinks(auth: AuthConfig): boolean {
  return auth.kind === 'dev' || auth.kind === 'token';
}

/** Whether somebody may have been sent to this path. One whom the list of their shops does not lead there has found it left open by another. */
export function mayBeOf(me: Pick<Me, 'all_shops' | 'more' | 'shops'>, path: string): boolean {
  const shop = /^\/shops\/([^/]+)/.exec(path)?.[1]?.toLowerCase();
  return shop === undefined || me.all_shops || me.more || me.shops.some((one) => one.shop_id === shop);
}
