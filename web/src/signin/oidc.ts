// Signing in with an OIDC issuer: authorization code with PKCE, by redirect. Loaded only where the service is set up for it.
//
// What has to outlive the redirect, the verifier and the place to come back to, is in the session storage until the issuer sends the
// person back. Tokens are not: they stay in memory, and are renewed with the refresh token where the issuer gives one.

import { ErrorResponse, InMemoryWebStorage, UserManager, type User, WebStorageStateStore } from 'oidc-client-ts';
import type { AuthConfig } from '../api/types';
import { haveSignedIn, mustAskAgain } from '../shell/left';
import type { SignedIn } from './auth';
import { endsAtIssuer } from './ends';

let manager: UserManager | null = null;

function managerOf(config: Extract<AuthConfig, { kind: 'oidc' }>): UserManager {
  manager ??= new UserManager({
    authority: config.issuer,
    client_id: config.client_id,
    redirect_uri: `${location.origin}/sign-in`,
    scope: 'openid profile offline_access',
    automaticSilentRenew: false,
    monitorSession: false,
    userStore: new WebStorageStateStore({ store: new InMemoryWebStorage() }),
    stateStore: new WebStorageStateStore({ store: sessionStorage }),
  });
  return manager;
}

/** Leaves for the issuer, which asks who it is also where it still knows somebody, after that person has signed out here. */
export async function leave(config: Extract<AuthConfig, { kind: 'oidc' }>, comeBackTo: string): Promise<void> {
  await managerOf(config).signinRedirect({ state: comeBackTo, ...(mustAskAgain() ? { prompt: 'login' } : {}) });
}

/** Takes what the issuer has sent back with the person, and where they wanted to be. */
export async function comeBack(config: Extract<AuthConfig, { kind: 'oidc' }>): Promise<SignedIn & { place: string }> {
  const of = managerOf(config);
  const user = await of.signinRedirectCallback();
  haveSignedIn();
  // Only a path of this page: what came back with the person is not to lead anywhere else.
  const wanted = typeof user.state === 'string' && /^\/(?!\/)/.test(user.state) ? user.state : '/';
  return {
    token: tokenOf(user),
    place: wanted,
    // Without a refresh token there is no newer one without the person, who is told so in time.
    renew: user.refresh_token
      ? async () => {
          try {
            const renewed = await of.signinSilent();
            return renewed === null ? null : tokenOf(renewed);
          } catch (error) {
            if (error instanceof ErrorResponse && endsAtIssuer(error.error)) return null;
            throw error;
          }
        }
      : null,
    end: () => void of.removeUser(),
  };
}

/** The access token where it is one that the service can check, else the token of the sign-in. */
function tokenOf(user: User): string {
  return user.access_token.split('.').length === 3 ? user.access_token : (user.id_token ?? user.access_token);
}
