// How the service is: its stages, partitions, parked events, corrections, drift and rebuilds.

import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { type FormEvent, type ReactNode, useEffect, useMemo, useRef, useState } from 'react';
import { Link } from 'wouter';
import type { FiledCorrection, Operations, ParkedEvent } from '../api/types';
import { wordsOf } from '../basket/corrections';
import { clipped, time } from '../live/row';
import { Icon } from '../look/icon';
import { type Formats, formatsOf } from '../look/money';
import { Dialog } from '../shell/dialog';
import { useNotices } from '../shell/notices';
import { Failed, Loading } from '../shell/states';
import { useTitle } from '../shell/title';
import { shortOf, tell, useClient, useMay, useNow, useSpoken, useTexts } from '../shell/use';
import { rateOf, type Sample, sampleOf, withSample } from './rates';

const ASK_EVERY_MS = 2_000;
/** What is worth a colour: events that wait, and for how long. */
const LAG_SECONDS_BAD = 5;

export function OperationsPage() {
  const texts = useTexts();
  useTitle(texts.operations.title);
  const client = useClient();
  const { locale } = useSpoken();
  const now = useNow();
  // Operators look at all shops, so money has no currency here and time is their own.
  const formats = useMemo(() => formatsOf(locale, null, null), [locale]);
  const asked = useQuery({ queryKey: ['operations'], queryFn: ({ signal }) => client.operations(signal), refetchInterval: ASK_EVERY_MS, retry: false });
  const samples = useRef<Sample[]>([]);
  const [shownSamples, setSamples] = useState<Sample[]>([]);
  useEffect(() => {
    if (asked.data === undefined) return;
    samples.current = withSample(samples.current, sampleOf(asked.data));
    setSamples(samples.current);
  }, [asked.data]);
  const data = asked.data;
  if (data === undefined) {
    return asked.error === null ? <Loading /> : <Failed title={texts.operations.cannotLoad} error={asked.error} onRetry={() => void asked.refetch()} />;
  }
  return (
    <div className="operations">
      <div className="page-head">
        <div>
          <h1>{texts.operations.title}</h1>
          <p className="sub">
            {texts.operations.asked(texts.age((now - time(data.at)) / 1000))} · {texts.operations.version} {data.version}
          </p>
        </div>
      </div>
      {asked.error === null ? null : (
        <p className="note bad" role="alert">
          <strong>{texts.operations.cannotLoad}.</strong> {tell(asked.error, texts)} {texts.operations.cannotLoadHint}
        </p>
      )}
      <Stages data={data} samples={shownSamples} formats={formats} />
      <div className="two">
        <Journal data={data} formats={formats} />
        <Drift data={data} formats={formats} />
      </div>
      <Parked count={data.parked.count} formats={formats} />
      <Partitions data={data} formats={formats} now={now} />
      <CorrectionsFeed data={data} formats={formats} />
      <Rebuild data={data} formats={formats} />
    </div>
  );
}

function Card({ id, title, note, children }: { id: string; title: string; note?: ReactNode; children: ReactNode }) {
  return (
    <section className="card" aria-labelledby={id}>
      <div className="card-head">
        <h2 id={id}>{title}</h2>
        {note === undefined ? null : <span className="sub">{note}</span>}
      </div>
      {children}
    </section>
  );
}

function Stages({ data, samples, formats }: { data: Operations; samples: Sample[]; formats: Formats }) {
  const texts = useTexts();
  const perSecond = (rate: number | null) => (rate === null ? '–' : texts.operations.perSecond(formats.number(Math.round(rate * 10) / 10)));
  return (
    <section aria-labelledby="stages">
      <h2 id="stages" className="unseen">
        {texts.operations.stages}
      </h2>
      <ul className="plain stages">
        {data.stages.map((stage) => {
          const rate = rateOf(samples, stage.stage);
          const lag = stage.lag_events ?? 0;
          const isBad = (stage.lag_seconds ?? 0) > LAG_SECONDS_BAD;
          return (
            <li key={stage.stage} className="card stage" data-bad={isBad || undefined}>
              <span className="tile-name">{texts.operations.stageNames[stage.stage] ?? stage.stage}</span>
              <span className="tile-value">{perSecond(rate)}</span>
              <span className="stage-lag">
                {lag === 0 && !isBad ? (
                  <>
                    <Icon name="check" />
                    {texts.operations.upToDate}
                  </>
                ) : (
                  <>
                    <Icon name={isBad ? 'alert' : 'clock'} />
                    {texts.operations.lag} {texts.operations.lagEvents(formats.number(lag), lag)}
                    {stage.lag_seconds === null ? '' : `, ${texts.operations.lagSeconds(formats.number(Math.round(stage.lag_seconds * 10) / 10))}`}
                  </>
                )}
              </span>
              <span className="sub">
                {texts.operations.sequence} {stage.sequence === null ? '–' : formats.number(stage.sequence)}
              </span>
            </li>
          );
        })}
        {data.updates === null ? null : (
          <li className="card stage">
            <span className="tile-name">{texts.operations.stageNames.updates}</span>
            <span className="tile-value">{perSecond(rateOf(samples, 'updates'))}</span>
            <span className="sub">
              {texts.operations.stored(formats.number(data.updates.messages))}, {bytes(data.updates.bytes, formats)}
            </span>
            <span className="sub">{data.updates.last_at === null ? '' : `${texts.operations.lastUpdate} ${formats.clockWithSeconds(time(data.updates.last_at))}`}</span>
          </li>
        )}
      </ul>
    </section>
  );
}

function Journal({ data, formats }: { data: Operations; formats: Formats }) {
  const texts = useTexts();
  const { journal } = data;
  return (
    <Card id="journal" title={texts.operations.journal}>
      <dl className="pairs">
        <Pair name={texts.operations.messages}>{formats.number(journal.messages)}</Pair>
        <Pair name={texts.operations.size}>{bytes(journal.bytes, formats)}</Pair>
        <Pair name={texts.operations.durability}>{texts.operations.durabilities[journal.durability] ?? journal.durability}</Pair>
        <Pair name={texts.operations.lastAt}>{journal.last_at === null ? '–' : formats.dayAndTime(time(journal.last_at))}</Pair>
        <Pair name={texts.operations.epoch}>
          <span className="mono">{journal.epoch}</span>
        </Pair>
      </dl>
    </Card>
  );
}

function Pair({ name, children }: { name: string; children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function bytes(count: number, formats: Formats): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${formats.number(Math.round(value * 10) / 10)} ${units[unit]}`;
}

function Drift({ data, formats }: { data: Operations; formats: Formats }) {
  const texts = useTexts();
  const { drift } = data;
  return (
    <Card id="drift" title={texts.operations.drift}>
      <p className="quiet-text">{drift === null ? texts.operations.driftNone : texts.operations.driftText}</p>
      {drift === null ? null : (
        <dl className="pairs">
          <Pair name={texts.operations.checked}>{formats.number(drift.checked)}</Pair>
          <Pair name={texts.operations.different}>
            <span className={drift.different > 0 ? 'chip bad-chip' : 'chip good-chip'}>{formats.number(drift.different)}</span>
          </Pair>
        </dl>
      )}
    </Card>
  );
}

function Partitions({ data, formats, now }: { data: Operations; formats: Formats; now: number }) {
  const texts = useTexts();
  const owners = new Set(data.partitions.map((one) => one.owner).filter((one) => one !== null));
  return (
    <Card id="partitions" title={texts.operations.partitions} note={texts.operations.owners(owners.size)}>
      <div className="table-scroll" tabIndex={0} role="group" aria-labelledby="partitions">
        <table>
          <thead>
            <tr>
              <th scope="col" className="num">{texts.operations.partition}</th>
              <th scope="col">{texts.operations.owner}</th>
              <th scope="col" className="num">{texts.operations.lease}</th>
              <th scope="col" className="num">{texts.operations.checkpoint}</th>
              <th scope="col" className="num">{texts.operations.lag}</th>
              <th scope="col">{texts.operations.halted}</th>
            </tr>
          </thead>
          <tbody>
            {data.partitions.map((one) => {
              const left = one.lease_until === null ? 0 : Math.ceil((time(one.lease_until) - now) / 1000);
              return (
                <tr key={one.partition} data-bad={one.halted !== null || one.owner === null || undefined}>
                  <th scope="row" className="num">{one.partition}</th>
                  <td className="mono">{one.owner === null ? texts.operations.noOwner : <bdi>{one.owner}</bdi>}</td>
                  <td className="num">{one.lease_until === null ? '–' : left > 0 ? texts.operations.leaseLeft(formats.number(left)) : texts.operations.leaseOver}</td>
                  <td className="num">{formats.number(one.checkpoint)}</td>
                  <td className="num">{one.lag_events === 0 ? '0' : `${texts.operations.lagEvents(formats.number(one.lag_events), one.lag_events)}, ${texts.operations.lagSeconds(formats.number(Math.round(one.lag_seconds * 10) / 10))}`}</td>
                  <td>{one.halted === null ? '–' : <bdi>{one.halted}</bdi>}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </Card>
  );
}

function Parked({ count, formats }: { count: number; formats: Formats }) {
  const texts = useTexts();
  const client = useClient();
  const mayDecide = useMay('operate');
  const cache = useQueryClient();
  const [deciding, setDeciding] = useState<{ event: ParkedEvent; decision: 'retry' | 'drop' } | null>(null);
  const list = useInfiniteQuery({
    queryKey: ['parked', count],
    queryFn: ({ pageParam, signal }) => client.parked(pageParam, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
    placeholderData: (before) => before,
    // What was decided takes effect in a moment, and may leave as many as there were.
    refetchInterval: ({ state }) => (state.data?.pages.some((page) => page.parked.some((event) => event.state !== 'parked')) ? ASK_EVERY_MS : false),
  });
  const events = list.data?.pages.flatMap((page) => page.parked) ?? [];
  return (
    <Card id="parked" title={texts.operations.parked} note={count === 0 ? undefined : texts.operations.parkedCount(count)}>
      {list.error !== null && events.length === 0 ? <p className="note bad">{tell(list.error, texts)}</p> : null}
      {events.length === 0 && list.error === null ? <p className="quiet-text">{texts.operations.parkedNone}</p> : null}
      <ul className="plain parked">
        {events.map((event) => (
          <li key={event.id} className="parked-event">
            <div className="parked-head">
              <strong>#{formats.number(event.sequence)}</strong>
              <span className="chip warn-chip">{texts.operations.states[event.state] ?? event.state}</span>
              <span className="sub">
                {event.recorded_at === null ? null : `${texts.operations.recorded} ${formats.dayAndTime(time(event.recorded_at))} · `}
                {texts.operations.partition} {event.partition}
              </span>
            </div>
            <p>
              <bdi>{clipped(event.reason, 500)}</bdi>
            </p>
            {event.body === null ? null : (
              <details>
                <summary>{texts.operations.body}</summary>
                <pre className="mono" tabIndex={0}>
                  {event.body}
                </pre>
              </details>
            )}
            <div className="parked-tools">
              {event.shop_id === null || event.session_id === null ? null : (
                <Link className="button small" href={`/shops/${event.shop_id}/baskets/${event.session_id}`}>
                  {texts.operations.openBasket}
                </Link>
              )}
              {mayDecide ? (
                <>
                  <button type="button" className="button small" onClick={() => setDeciding({ event, decision: 'retry' })}>
                    <Icon name="undo" />
                    {texts.operations.retry}
                  </button>
                  <button type="button" className="button small danger" onClick={() => setDeciding({ event, decision: 'drop' })}>
                    <Icon name="trash" />
                    {texts.operations.drop}
                  </button>
                </>
              ) : null}
            </div>
          </li>
        ))}
      </ul>
      {list.hasNextPage ? (
        <button type="button" className="button" onClick={() => void list.fetchNextPage()} disabled={list.isFetchingNextPage}>
          {texts.history.more}
        </button>
      ) : null}
      {!mayDecide && events.length > 0 ? <p className="hint">{texts.operations.adminOnly}</p> : null}
      {deciding === null ? null : (
        <Decide
          event={deciding.event}
          decision={deciding.decision}
          formats={formats}
          onClose={() => setDeciding(null)}
          onDone={() => {
            setDeciding(null);
            void cache.invalidateQueries({ queryKey: ['parked'] });
            void cache.invalidateQueries({ queryKey: ['operations'] });
          }}
        />
      )}
    </Card>
  );
}

function Decide({
  event,
  decision,
  formats,
  onClose,
  onDone,
}: {
  event: ParkedEvent;
  decision: 'retry' | 'drop';
  formats: Formats;
  onClose: () => void;
  onDone: () => void;
}) {
  const texts = useTexts();
  const client = useClient();
  const { notify } = useNotices();
  const [sending, setSending] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const submit = async (submitted: FormEvent<HTMLFormElement>) => {
    submitted.preventDefault();
    const reason = String(new FormData(submitted.currentTarget).get('reason')).trim();
    if (reason === '') return setProblem(texts.correct.reasonMissing);
    setSending(true);
    try {
      await client.decide(event.id, decision, reason);
      notify(texts.operations.decided);
      onDone();
    } catch (error) {
      setProblem(tell(error, texts));
      setSending(false);
    }
  };
  const at = formats.number(event.sequence);
  return (
    <Dialog open onClose={onClose} title={decision === 'retry' ? texts.operations.retryTitle(at) : texts.operations.dropTitle(at)}>
      <form onSubmit={(submitted) => void submit(submitted)}>
        <p>{decision === 'retry' ? texts.operations.retryText : texts.operations.dropText}</p>
        <p className="note">
          <bdi>{clipped(event.reason, 300)}</bdi>
        </p>
        <label className="field">
          <span>{texts.correct.reason}</span>
          <input name="reason" maxLength={300} autoFocus />
        </label>
        {problem === null ? null : (
          <p className="note bad" role="alert">
            {problem}
          </p>
        )}
        <div className="dialog-foot">
          <button type="button" className="button" onClick={onClose}>
            {texts.cancel}
          </button>
          <button type="submit" className={decision === 'drop' ? 'button primary danger' : 'button primary'} disabled={sending}>
            {decision === 'retry' ? texts.operations.retry : texts.operations.drop}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function CorrectionsFeed({ data, formats }: { data: Operations; formats: Formats }) {
  const texts = useTexts();
  const client = useClient();
  const { data: all, error } = useQuery({ queryKey: ['all-corrections'], queryFn: ({ signal }) => client.allCorrections(signal), refetchInterval: 5_000 });
  const { waiting, held_shops: held } = data.corrections;
  return (
    <Card id="corrections" title={texts.operations.correctionsFeed} note={waiting > 0 ? texts.operations.correctionsWaiting(waiting) : undefined}>
      {held.length === 0 ? null : (
        <p className="note bad">
          {texts.operations.held(held.length)}: <span className="mono">{held.slice(0, 5).join(', ')}</span>
        </p>
      )}
      {error !== null && all === undefined ? <p className="note bad">{tell(error, texts)}</p> : null}
      {all?.length === 0 ? <p className="quiet-text">{texts.operations.correctionsNone}</p> : null}
      <ul className="plain feed">
        {all?.map((one) => <FeedItem key={`${one.session_id} ${one.id}`} one={one} formats={formats} />)}
      </ul>
    </Card>
  );
}

function FeedItem({ one, formats }: { one: FiledCorrection; formats: Formats }) {
  const texts = useTexts();
  return (
    <li className="feed-item">
      <span className="why-at">{formats.dayAndTime(time(one.created_at))}</span>
      <span className="feed-what">
        <bdi>{clipped(wordsOf(one, texts.basket.noName, texts, formats), 160)}</bdi>
        <span className="sub">
          <bdi>{clipped(`${one.author}: ${one.reason}`, 200)}</bdi>
        </span>
      </span>
      <span className={`chip ${one.state === 'rejected' ? 'bad-chip' : one.state === 'applied' ? 'good-chip' : 'plain-chip'}`}>{texts.basket.states[one.state]}</span>
      <Link className="button quiet small" href={`/shops/${one.shop_id}/baskets/${one.session_id}`}>
        #{shortOf(one.session_id)}
      </Link>
    </li>
  );
}

function Rebuild({ data, formats }: { data: Operations; formats: Formats }) {
  const texts = useTexts();
  const { active, previous, building, reports } = data.rebuild;
  return (
    <Card id="rebuild" title={texts.operations.rebuild}>
      <dl className="pairs">
        <Pair name={texts.operations.active}>
          <span className="mono">{active}</span>
        </Pair>
        <Pair name={texts.operations.previous}>
          <span className="mono">{previous ?? '–'}</span>
        </Pair>
        <Pair name={texts.operations.building}>{building === null ? texts.operations.notBuilding : <span className="mono">{building.version}</span>}</Pair>
      </dl>
      <h3>{texts.operations.reports}</h3>
      {reports.length === 0 ? <p className="quiet-text">{texts.operations.noReports}</p> : null}
      {reports.length === 0 ? null : (
        <div className="table-scroll" tabIndex={0} role="group" aria-label={texts.operations.reports}>
          <table>
            <thead>
              <tr>
                <th scope="col">{texts.basket.when}</th>
                <th scope="col">{texts.operations.scope}</th>
                <th scope="col" className="num">{texts.operations.equal}</th>
                <th scope="col" className="num">{texts.operations.different}</th>
                <th scope="col">{texts.operations.digest}</th>
              </tr>
            </thead>
            <tbody>
              {reports.map((report) => (
                <tr key={`${report.at} ${report.scope} ${report.digest}`} data-bad={report.different > 0 || undefined}>
                  <td className="nowrap">{report.at === null ? '–' : formats.dayAndTime(time(report.at))}</td>
                  <td>
                    {report.scope === 'all' ? texts.operations.scopeAll(formats.number(report.shops), report.shops) : <span className="mono">{report.scope}</span>}
                    {report.version === null ? null : <span className="sub mono"> {report.version}</span>}
                    {report.reasons.map((one) => (
                      <span key={one.reason} className="sub reason">
                        <bdi>{clipped(one.reason, 200)}</bdi>: {formats.number(one.count)}
                      </span>
                    ))}
                  </td>
                  <td className="num">{formats.number(report.equal)}</td>
                  <td className="num">{formats.number(report.different)}</td>
                  <td className="mono">{report.digest.slice(0, 16)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}
