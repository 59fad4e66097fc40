import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { Problem, Unreachable } from './api/problem';
import './look/tokens.css';
import './look/base.css';
import './look/screens.css';
import 'uplot/dist/uPlot.min.css';
import { applyTheme } from './look/preferences';
import { App } from './shell/app';
import { NoticesProvider } from './shell/notices';
import { AuthProvider, SpokenProvider } from './shell/use';
import { Auth } from './signin/auth';
import { takeTokenOfLink } from './signin/token';
import { prepare } from './texts/texts';

applyTheme();
const auth = new Auth();
void auth.begin(takeTokenOfLink(location, history));
// A second link on the path that is open loads nothing anew.
addEventListener('hashchange', () => {
  const token = takeTokenOfLink(location, history);
  if (token !== null) void auth.takeLink(token);
});

const cache = new QueryClient({
  defaultOptions: {
    queries: {
      // What cannot be reached may be back in a moment; what is refused will be refused again.
      retry: (count, error) => count < 3 && (error instanceof Unreachable || (error instanceof Problem && error.status >= 500)),
      retryDelay: (count) => Math.min(1000 * 2 ** count, 8000),
      networkMode: 'always',
      staleTime: 1_000,
    },
    mutations: { networkMode: 'always' },
  },
});

const page = document.getElementById('page');

function show(): void {
  if (page === null) return;
  createRoot(page).render(
    <StrictMode>
      <QueryClientProvider client={cache}>
        <AuthProvider value={auth}>
          <SpokenProvider>
            <NoticesProvider>
              <App />
            </NoticesProvider>
          </SpokenProvider>
        </AuthProvider>
      </QueryClientProvider>
    </StrictMode>,
  );
}

// A language that cannot be loaded is no reason to show nothing.
void prepare().then(show, show);
