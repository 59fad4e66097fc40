// Events and takings of the day, drawn by uPlot, and as a table for those who do not see it.

import { useQuery } from '@tanstack/react-query';
import { useEffect, useRef, useState } from 'react';
import uPlot from 'uplot';
import type { Day } from '../api/types';
import { Icon } from '../look/icon';
import type { Formats } from '../look/money';
import { useShop } from '../shell/shop';
import { useClient, useMedia, usePreferences, useTexts } from '../shell/use';
import type { Texts } from '../texts/en';
import { useDayStart } from './tiles';

const ASK_EVERY_MS = 30_000;
const HEIGHT = 176;

export function DayChart() {
  const texts = useTexts();
  const client = useClient();
  const { shop, formats } = useShop();
  const start = useDayStart();
  const { data, error } = useQuery({
    queryKey: ['day', shop.shop_id, start.getTime()],
    queryFn: ({ signal }) => client.day(shop.shop_id, start, signal),
    refetchInterval: ASK_EVERY_MS,
  });
  const events = data?.points.reduce((sum, point) => sum + point.events, 0) ?? 0;
  const takings = data?.points.reduce((sum, point) => sum + point.paid_total, 0) ?? 0;
  // Where it would stand above the baskets they come first: the chart is there with a tap.
  const narrow = useMedia('(max-width: 1599px)');
  const [chosen, setChosen] = useState<boolean | null>(null);
  const open = chosen ?? !narrow;
  return (
    <section className="card chart-card" aria-labelledby="chart-title">
      <div className="card-head">
        <h2 id="chart-title">
          <button type="button" className="chart-toggle" aria-expanded={open} onClick={() => setChosen(!open)}>
            {texts.board.chart}
            <Icon name="chevron" className={open ? 'turned' : undefined} />
          </button>
        </h2>
        {open ? (
          <p className="legend">
            <span className="legend-events">{texts.board.chartEvents}</span>
            <span className="legend-takings">{texts.board.chartTakings}</span>
          </p>
        ) : data === undefined ? null : (
          <p className="chart-lead">{texts.board.chartLead(formats.number(events), formats.money(takings))}</p>
        )}
      </div>
      {!open ? null : data === undefined ? (
        <div className="chart-none">{error === null ? texts.loading : texts.board.chartNone}</div>
      ) : (
        <>
          <Drawn day={data} formats={formats} texts={texts} label={texts.board.chartLead(formats.number(events), formats.money(takings))} />
          <details className="chart-table">
            <summary>{texts.board.chartTable}</summary>
            <div className="chart-table-scroll" tabIndex={0} role="group" aria-label={texts.board.chartTable}>
              <table>
                <thead>
                  <tr>
                    <th scope="col">{texts.board.chartTime}</th>
                    <th scope="col" className="num">{texts.board.chartEvents}</th>
                    <th scope="col" className="num">{texts.board.chartTakings}</th>
                  </tr>
                </thead>
                <tbody>
                  {data.points
                    .filter((point) => point.events > 0 || point.paid_total > 0)
                    .map((point) => (
                      <tr key={point.at}>
                        <th scope="row">{formats.clock(Date.parse(point.at))}</th>
                        <td className="num">{formats.number(point.events)}</td>
                        <td className="num">{formats.money(point.paid_total)}</td>
                      </tr>
                    ))}
                </tbody>
              </table>
            </div>
          </details>
        </>
      )}
    </section>
  );
}

/** Each point is the time from its moment to the next; the last one has its end as well, so that it is as wide as the others. */
function dataOf(day: Day): uPlot.AlignedData {
  const times = day.points.map((point) => Date.parse(point.at) / 1000);
  const last = times.at(-1);
  const end = last === undefined ? [] : [last + day.interval_seconds];
  return [
    [...times, ...end],
    [...day.points.map((point) => point.events), ...end.map(() => null)],
    [...day.points.map((point) => point.paid_total), ...end.map(() => day.points.at(-1)?.paid_total ?? null)],
  ];
}

function Drawn({ day, formats, texts, label }: { day: Day; formats: Formats; texts: Texts; label: string }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(day);
  latest.current = day;
  const { theme } = usePreferences();
  const dark = useMedia('(prefers-color-scheme: dark)');
  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    const look = getComputedStyle(element);
    const colour = (name: string) => look.getPropertyValue(name).trim();
    const [ink, line, events, takings] = ['--chart-ink', '--chart-line', '--chart-events', '--chart-takings'].map(colour);
    const font = `12px ${look.fontFamily}`;
    const drawn = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        // The legend above says the same.
        legend: { show: false },
        cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
        tzDate: (at) => uPlot.tzDate(new Date(at * 1000), formats.timeZone),
        padding: [10, 6, 0, 0],
        scales: { y: { range: (_, __, max) => [0, Math.max(4, max * 1.15)] }, money: { range: (_, __, max) => [0, Math.max(4, max * 1.15)] } },
        axes: [
          { stroke: ink, font, grid: { show: false }, ticks: { show: false }, values: (_, at) => at.map((one) => formats.clock(one * 1000)), space: 72, size: 26 },
          { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: 46, values: (_, all) => all.map((one) => (Number.isInteger(one) ? formats.number(one) : '')) },
          { scale: 'money', side: 1, stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 62, values: (_, all) => all.map((one) => formats.moneyShort(one)) },
        ],
        series: [
          {},
          { label: texts.board.chartEvents, fill: events, stroke: events, width: 0, points: { show: false }, paths: uPlot.paths.bars?.({ size: [0.7, 22], radius: 0.2, align: 1 }) },
          { label: texts.board.chartTakings, scale: 'money', stroke: takings, width: 2, points: { show: false }, paths: uPlot.paths.stepped?.({ align: 1 }) },
        ],
      },
      dataOf(latest.current),
      element,
    );
    plot.current = drawn;
    const seen = new ResizeObserver(() => {
      if (element.clientWidth > 0) drawn.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    seen.observe(element);
    return () => {
      seen.disconnect();
      drawn.destroy();
      plot.current = null;
    };
  }, [formats, texts, theme, dark]);
  useEffect(() => {
    plot.current?.setData(dataOf(day));
  }, [day]);
  return <div className="chart" ref={place} role="img" aria-label={label} />;
}
