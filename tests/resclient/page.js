// What a merchant's page does: it follows the open baskets of a shop with resclient, for as long as stdin is open.
//
//   node page.js ws://127.0.0.1:8080/ SHOP
//
// It begins with a line of JSON on stdout when it has the shop for the first time. For each line on stdin it prints one more:
//   see                    what it shows now, and what it went through
//   handle SESSION NAME    what the call `handle` of that basket is answered
"use strict";

const readline = require("node:readline");
const ResClient = require("resclient").default;
const WebSocket = require("ws");

// A call that was under way when the connection was lost is never answered, so nobody may wait for ever.
const CALL_TIMEOUT_MS = 20_000;

const [url, shop] = process.argv.slice(2);
const client = new ResClient(() => new WebSocket(url));
const passed = { connections: 0, added: 0, removed: 0, changed: 0, ended: [] };

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

function changed() {
  passed.changed += 1;
}

function ended() {
  passed.ended.push("a basket that is shown");
}

// A row of the page listens to its basket as long as it is shown.
function show(basket) {
  basket.on("change", changed);
  basket.on("delete", ended);
}

function hide(basket) {
  basket.off("change", changed);
  basket.off("delete", ended);
}

function timeout(promise) {
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error("no answer")), CALL_TIMEOUT_MS).unref();
  });
  return Promise.race([promise, late]);
}

async function main() {
  client.setOnConnect(async () => {
    passed.connections += 1;
    if (process.env.TOKEN) {
      // Whoever comes back says again who they are, before anything is asked for.
      await timeout(client.authenticate("ezout.auth", "jwt", { jwt: process.env.TOKEN })).catch(() => {});
    }
  });
  const baskets = await client.get(`ezout.shop.${shop}.baskets`);
  for (const basket of baskets) {
    show(basket);
  }
  baskets.on("add", ({ item }) => {
    passed.added += 1;
    show(item);
  });
  baskets.on("remove", ({ item }) => {
    passed.removed += 1;
    hide(item);
  });
  for (const name of ["delete", "unsubscribe"]) {
    baskets.on(name, () => passed.ended.push(`${name} ${baskets.getResourceId()}`));
  }
  say({ ready: true });

  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [command, session, name] = line.split(" ");
    if (command === "see") {
      say({ baskets: [...baskets].map((basket) => basket.props ?? { error: basket.code }), passed });
    } else if (command === "handle") {
      try {
        const basket = await client.get(`ezout.shop.${shop}.basket.${session}`);
        say({ result: await timeout(basket.call("handle", { by: name })) });
      } catch (error) {
        say({ error: error.code ?? error.message });
      }
    }
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
