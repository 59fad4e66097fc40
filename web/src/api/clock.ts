// The service's clock as seen from here. Ages are told by the service's time: a tablet's clock may be wrong by hours.

let offset = 0;
let known = false;

/** Notes the `Date` of an answer. It has whole seconds, so only a larger difference counts. */
export function noteServerDate(header: string | null, now = Date.now()): void {
  const server = header === null ? Number.NaN : Date.parse(header);
  if (Number.isNaN(server)) return;
  const difference = server + 500 - now;
  if (!known || Math.abs(difference - offset) > 1500) {
    offset = Math.abs(difference) > 1500 ? difference : 0;
    known = true;
  }
}

/** Now, by the service's clock, in milliseconds. */
export function serverNow(): number {
  return Date.now() + offset;
}
