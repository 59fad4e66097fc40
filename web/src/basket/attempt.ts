// A correction whose answer was lost may have been recorded. Sent again as it was, under the same id, it is still one.

import { newId } from '../api/ids';
import type { Proposal } from '../api/types';

export class Attempt {
  private last: { what: string; id: string } | null = null;

  /** The proposal under its id: that of the time before for as long as nothing in it is otherwise. */
  of(proposed: Omit<Proposal, 'id'>): Proposal {
    const what = JSON.stringify(proposed);
    if (this.last?.what !== what) this.last = { what, id: newId() };
    return { id: this.last.id, ...proposed };
  }

  /** It was answered for good, so that whatever comes next is another one. */
  answered(): void {
    this.last = null;
  }
}
