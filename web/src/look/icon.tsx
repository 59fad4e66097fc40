// The pictures of buttons, drawn here, so that none is loaded.

const paths = {
  alert: 'M12 3.5 21.5 20h-19zM12 10v4.5M12 17.2v.1',
  arrowLeft: 'M19 12H5M11 6l-6 6 6 6',
  basket: 'M4 10h16l-1.5 9h-13zM8.5 10l2-5M15.5 10l-2-5',
  check: 'M5 12.5 10 17.5 19.5 7',
  chevron: 'M7 10l5 5 5-5',
  clock: 'M12 7.5V12l3 2M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16z',
  close: 'M6 6l12 12M18 6 6 18',
  edit: 'M5 19h3.5L19 8.5 15.5 5 5 15.5z',
  first: 'M6 5v14M19 6l-9 6 9 6z',
  flag: 'M6 21V4M6 5h11l-2.5 4L17 13H6',
  gone: 'M5 12h14',
  hand: 'M8 12V6.5a1.5 1.5 0 0 1 3 0V11M11 11V5a1.5 1.5 0 0 1 3 0v6M14 11V6.5a1.5 1.5 0 0 1 3 0V14c0 4-2.5 6.5-6 6.5-3 0-4.5-1.5-6-4l-1.8-3.2a1.4 1.4 0 0 1 2.3-1.5L8 14',
  help: 'M9.2 9.2a2.8 2.8 0 1 1 4.2 2.5c-.9.5-1.4 1.1-1.4 2.1M12 17v.1M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z',
  history: 'M4.5 12a7.5 7.5 0 1 1 2.5 5.6M4.5 12l-1.5-2.5M4.5 12 7 10.5M12 8v4.5l3 1.5',
  layers: 'M12 4 3.5 8.5 12 13l8.5-4.5zM3.5 12.5 12 17l8.5-4.5M3.5 16.5 12 21l8.5-4.5',
  link: 'M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.7-5.7L12 7M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.7 5.7L12 17',
  live: 'M12 10.5a1.5 1.5 0 1 0 0 3 1.5 1.5 0 0 0 0-3zM8 8a5.6 5.6 0 0 0 0 8M16 8a5.6 5.6 0 0 1 0 8M5.2 5.2a9.6 9.6 0 0 0 0 13.6M18.8 5.2a9.6 9.6 0 0 1 0 13.6',
  menu: 'M5 7h14M5 12h14M5 17h14',
  minus: 'M6 12h12',
  next: 'M9 6l8 6-8 6z',
  pause: 'M8.5 6v12M15.5 6v12',
  play: 'M8 5.5v13l11-6.5z',
  previous: 'M15 6l-8 6 8 6z',
  search: 'M11 4.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.8 15.8 20 20',
  shop: 'M4 10 5.5 4.5h13L20 10M4 10v9.5h16V10M4 10c0 3 4 3 4 0 0 3 4 3 4 0 0 3 4 3 4 0 0 3 4 3 4 0M9.5 19.5V15h5v4.5',
  signOut: 'M10 4.5H5v15h5M14 8l4 4-4 4M18 12H9.5',
  sort: 'M7 5v14M7 19l-3-3M7 19l3-3M13 7h7M13 12h5M13 17h3',
  sound: 'M5 9.5v5h3.5L13 18.5v-13L8.5 9.5zM16 9a4 4 0 0 1 0 6M18.5 6.5a7.5 7.5 0 0 1 0 11',
  trash: 'M5 7h14M10 7V4.5h4V7M7 7l1 12.5h8L17 7',
  undo: 'M8.5 8.5 4.5 12.5l4 4M5 12.5h9.5a4 4 0 0 1 0 8H12',
  user: 'M12 4.5a3.8 3.8 0 1 0 0 7.6 3.8 3.8 0 0 0 0-7.6zM4.8 20a7.2 7.2 0 0 1 14.4 0',
} as const;

export type IconName = keyof typeof paths;

/** A picture beside a text, or in a button that has a name: it is never the only one to say something. */
export function Icon({ name, className }: { name: IconName; className?: string }) {
  return (
    <svg className={className === undefined ? 'icon' : `icon ${className}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={paths[name]} />
    </svg>
  );
}
