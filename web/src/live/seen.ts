// Says now and then which event is on the screen, so that the service can measure the time until a person sees it.

/** Between two words of it. */
const EVERY_MS = 10_000;

export class Seen {
  private saidAt = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly url: string,
    private readonly headers: () => Record<string, string>,
  ) {}

  /** An update was taken: it is on the screen once the frame is painted that shows it. */
  took(sequence: number): void {
    // A page that nobody looks at paints nothing.
    if (typeof requestAnimationFrame !== 'function' || document.hidden) return;
    const now = performance.now();
    if (now - this.saidAt < EVERY_MS) return;
    this.saidAt = now;
    // The first callback runs before the frame with the update is painted, the second after it.
    requestAnimationFrame(() => requestAnimationFrame(() => this.say(sequence)));
  }

  private say(sequence: number): void {
    const headers = { ...this.headers(), 'content-type': 'application/json' };
    const said = fetch(this.url, { method: 'POST', headers, body: JSON.stringify({ sequence }) });
    // It is for a measurement: nobody is told when it is lost.
    said.catch(() => {});
  }
}
