// What went wrong with a request: a problem of the service (RFC 9457), or that it could not be reached.

import type { Basket, Changed } from './types';

export interface ProblemBody {
  type?: string;
  title?: string;
  status: number;
  code?: string;
  detail?: string;
  errors?: { pointer: string; code: string; detail: string }[];
  sequence?: number;
  changed?: Changed;
  basket?: Basket;
  handled_by?: string;
  handled_until?: string;
}

export class Problem extends Error {
  readonly body: ProblemBody;
  /** When it may be asked again, in seconds. */
  readonly retryAfter: number | null;

  constructor(body: ProblemBody, retryAfter: number | null = null) {
    super(body.detail ?? body.title ?? `HTTP ${body.status}`);
    this.name = 'Problem';
    this.body = body;
    this.retryAfter = retryAfter;
  }

  get status(): number {
    return this.body.status;
  }

  get code(): string {
    return this.body.code ?? `http_${this.body.status}`;
  }
}

/** The service could not be reached at all. */
export class Unreachable extends Error {
  constructor(cause: unknown) {
    super('the service cannot be reached', { cause });
    this.name = 'Unreachable';
  }
}

/** Reads an answer that is no success, whatever its body is. */
export async function problemOf(response: Response): Promise<Problem> {
  const retry = Number(response.headers.get('retry-after'));
  const retryAfter = Number.isFinite(retry) && retry > 0 ? retry : null;
  let body: unknown = null;
  if (response.headers.get('content-type')?.includes('json')) {
    body = await response.json().catch(() => null);
  }
  const known = typeof body === 'object' && body !== null ? (body as Partial<ProblemBody>) : {};
  return new Problem({ ...known, status: response.status }, retryAfter);
}

export function hasCode(error: unknown, ...codes: string[]): error is Problem {
  return error instanceof Problem && codes.includes(error.code);
}
