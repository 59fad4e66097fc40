// The time line of a visit: a slider through its past, and playing it.

import { useEffect, useMemo, useRef, useState } from 'react';
import { Icon } from '../look/icon';
import { useKeys } from '../shell/keys';
import { useShop } from '../shell/shop';
import { useTexts } from '../shell/use';
import { indexAt, MARKS, markOf, type Moment, pauseAfter, SPEEDS } from './moments';

/** How many moments are asked for before they are shown. */
const AHEAD = 2;

export function TimeLine({
  moments,
  sequence,
  onMove,
  onSoon,
}: {
  moments: Moment[];
  /** The moment that is shown; null is now. */
  sequence: number | null;
  onMove: (sequence: number | null) => void;
  /** Moments that will be shown in a moment. */
  onSoon: (sequences: number[]) => void;
}) {
  const texts = useTexts();
  const { formats } = useShop();
  const [playing, setPlaying] = useState(false);
  const [speed, setSpeed] = useState(10);
  // The last position is now: it goes on with what happens.
  const last = moments.length;
  const index = sequence === null ? last : indexAt(moments, sequence);
  const isNow = index >= last;
  const latest = useRef(onMove);
  latest.current = onMove;
  const known = useRef(moments);
  known.current = moments;
  const soon = useRef(onSoon);
  soon.current = onSoon;

  const moveTo = (to: number) => {
    const moment = moments[Math.max(0, to)];
    latest.current(to >= last || moment === undefined ? null : moment.sequence);
  };
  useEffect(() => {
    if (!playing) return;
    if (isNow) {
      setPlaying(false);
      return;
    }
    soon.current(known.current.slice(index + 1, index + 1 + AHEAD).map((moment) => moment.sequence));
    // What happens meanwhile comes at the end, and holds up nothing.
    const timer = setTimeout(() => {
      const next = known.current[index + 1];
      latest.current(next === undefined ? null : next.sequence);
    }, pauseAfter(known.current, index, speed));
    return () => clearTimeout(timer);
  }, [playing, index, isNow, speed]);
  const play = () => {
    if (playing) return setPlaying(false);
    if (index >= last) moveTo(0);
    setPlaying(true);
  };
  useKeys({
    ' ': play,
    ArrowLeft: () => moveTo(index - 1),
    ArrowRight: () => moveTo(index + 1),
    Home: () => moveTo(0),
    End: () => moveTo(last),
  });
  const marks = useMemo(() => MARKS.filter((mark) => moments.some((moment) => markOf(moment) === mark)), [moments]);
  if (moments.length === 0) return null;
  const here = moments[index];
  const what = here === undefined ? '' : (texts.actions[here.action.toUpperCase()] ?? here.action);
  const said = index >= last ? texts.past.now : here === undefined ? '' : `${texts.past.step(formats.number(index + 1), formats.number(last))}, ${formats.clockWithSeconds(here.at)}, ${what}`;
  return (
    <section className="card time-line" aria-label={texts.past.label} data-past={sequence !== null || undefined}>
      <div className="time-line-said">
        {index >= last ? (
          <span className="time-line-now">
            <Icon name="live" />
            {texts.past.now}
          </span>
        ) : here === undefined ? (
          <span>{texts.basket.notThen}</span>
        ) : (
          <>
            <strong>{formats.clockWithSeconds(here.at)}</strong>
            <span>
              {what} {here.product === null ? null : <bdi>{here.product.length > 60 ? `${here.product.slice(0, 60)}…` : here.product}</bdi>}
            </span>
            <span className="sub">{texts.past.step(formats.number(index + 1), formats.number(last))}</span>
          </>
        )}
      </div>
      <div className="time-line-track">
        <input
          type="range"
          min={0}
          max={last}
          step={1}
          value={Math.max(0, index)}
          aria-label={texts.past.slider}
          aria-valuetext={said}
          onKeyDown={(event) => {
            // The slider itself knows the arrows, and has no use for Space.
            if (event.key !== ' ') return;
            event.preventDefault();
            play();
          }}
          onChange={(event) => {
            setPlaying(false);
            moveTo(Number(event.target.value));
          }}
        />
        <div className="time-line-marks" aria-hidden="true">
          {moments.map((moment, at) => {
            const mark = markOf(moment);
            return mark === null ? null : <span key={moment.sequence} className="mark" data-kind={mark} style={{ left: `${(at / last) * 100}%` }} />;
          })}
        </div>
      </div>
      {marks.length === 0 ? null : (
        <ul className="plain marks-legend">
          {marks.map((mark) => (
            <li key={mark}>
              <span className="mark" data-kind={mark} aria-hidden="true" />
              {texts.past.marks[mark]}
            </li>
          ))}
        </ul>
      )}
      <div className="time-line-tools">
        <button type="button" className="button quiet icon-only" aria-label={texts.past.first} onClick={() => moveTo(0)} disabled={index <= 0}>
          <Icon name="first" />
        </button>
        <button type="button" className="button quiet icon-only" aria-label={texts.past.previous} onClick={() => moveTo(index - 1)} disabled={index <= 0}>
          <Icon name="previous" />
        </button>
        <button type="button" className="button primary icon-only" aria-label={playing ? texts.past.pause : texts.past.play} onClick={play}>
          <Icon name={playing ? 'pause' : 'play'} />
        </button>
        <button type="button" className="button quiet icon-only" aria-label={texts.past.next} onClick={() => moveTo(index + 1)} disabled={index >= last}>
          <Icon name="next" />
        </button>
        <label className="field speed">
          <span className="unseen">{texts.past.speed}</span>
          <select value={speed} onChange={(event) => setSpeed(Number(event.target.value))}>
            {SPEEDS.map((one) => (
              <option key={one} value={one}>
                {texts.past.times(one)}
              </option>
            ))}
          </select>
        </label>
        <span className="head-space" />
        {sequence === null ? null : (
          <button
            type="button"
            className="button small"
            onClick={() => {
              setPlaying(false);
              latest.current(null);
            }}
          >
            {texts.past.backToNow}
          </button>
        )}
      </div>
    </section>
  );
}
