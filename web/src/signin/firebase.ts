// Signing in with Firebase, by e-mail and password. Loaded only where the service is set up for it. Its tokens stay in memory.

import { initializeApp } from '@firebase/app';
import {
  type Auth,
  inMemoryPersistence,
  initializeAuth,
  sendPasswordResetEmail,
  signInWithEmailAndPassword,
  signOut,
} from '@firebase/auth';
import type { AuthConfig } from '../api/types';
import type { SignedIn } from './auth';
import { endsAtFirebase } from './ends';

let auth: Auth | null = null;

export function begin(config: Extract<AuthConfig, { kind: 'firebase' }>): void {
  auth ??= initializeAuth(
    initializeApp({ apiKey: config.api_key, projectId: config.project }),
    // No popup and no redirect: both load scripts of another origin.
    { persistence: inMemoryPersistence },
  );
}

export async function signIn(email: string, password: string): Promise<SignedIn> {
  if (auth === null) throw new Error('not begun');
  const { user } = await signInWithEmailAndPassword(auth, email, password);
  return {
    token: await user.getIdToken(),
    renew: async () => {
      try {
        return await user.getIdToken(true);
      } catch (error) {
        if (endsAtFirebase(reasonOf(error))) return null;
        throw error;
      }
    },
    end: () => {
      if (auth !== null) void signOut(auth);
    },
  };
}

export async function resetPassword(email: string): Promise<void> {
  if (auth !== null) await sendPasswordResetEmail(auth, email);
}

/** The stable word of what went wrong, such as `auth/invalid-credential`. */
function reasonOf(error: unknown): string {
  return (error as { code?: string }).code ?? '';
}
