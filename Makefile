# What there is to do here. Needs Rust and Python 3; servers/install gets the servers where PATH has none.
# More arguments for a command go in ARGS: make run ARGS=--demo

.PHONY: help run demo web test test-web fuzz chaos chaos-selftest soak bench size bench-web pictures servers try-image check

help:
	@echo "make run      start everything on this machine; Ctrl-C stops it"
	@echo "make demo     the same, with simulated shoppers"
	@echo "make web      build the merchants' page into web/dist; needs Node (20.19 or later)"
	@echo "make test-web test its parts"
	@echo "make test     all tests, against real servers of their own"
	@echo "make fuzz     ask everything that /openapi.json allows and does not, EXAMPLES=100 for each operation"
	@echo "make chaos    every cell of the fault matrix, kills and pauses by chance, SECONDS=600, what follows edits by hand, KILLS=50, and the alerts of twelve faults; as root also full disks"
	@echo "make chaos-selftest  break the code on purpose, patch by patch of tests/mutations, and show that a test sees each; ARGS=07 for one"
	@echo "make soak     steady load with a fault every minute for SECONDS=3600, and a picture of what grows"
	@echo "make bench    measure against the engines themselves"
	@echo "make size     measure what everything costs at a hundredth, a tenth and all of SESSIONS=1000000"
	@echo "make bench-web  how fast the page is with 1,000 baskets and 100 changes a second, SECONDS=600"
	@echo "make pictures take the pictures of the README in web/pictures, and of each screen below it"
	@echo "make check    formatting, lints and documentation, as continuous integration does"
	@echo "make servers  fetch nats-server and mongod where PATH has none"
	@echo "make try-image run the commands of the Dockerfile in clean roots; as root on Debian, with debootstrap"

run: servers
	cargo run -- dev $(ARGS)

demo: servers
	cargo run -- dev --demo $(ARGS)

# Where PATH has no Node, `servers/install --with-browser` brings it.
web test-web web/node_modules: export PATH := $(PATH):$(CURDIR)/.servers/bin

# What is in web/dist is part of the program, so that cargo needs no Node. Commit it with its source.
web: web/node_modules
	cd web && npm run build

test-web: web/node_modules
	cd web && npm test

web/node_modules: web/package-lock.json
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	touch web/node_modules

test: servers
	cargo test $(ARGS)

fuzz:
	@servers/install --with-fuzzer
	EZOUT_TEST_REQUIRE=schemathesis EZOUT_FUZZ_EXAMPLES=$(or $(EXAMPLES),100) cargo test --test it fuzz -- --nocapture

chaos: servers
	EZOUT_CHAOS_MATRIX=all EZOUT_CHAOS_SECONDS=$(or $(SECONDS),600) EZOUT_EDIT_KILLS=$(or $(KILLS),50) EZOUT_QUIET_SECONDS=60 EZOUT_FAULTS=all cargo test --test it chaos -- --nocapture

soak: servers
	EZOUT_SOAK_SECONDS=$(or $(SECONDS),3600) cargo test --test it chaos::soak -- --nocapture

chaos-selftest: servers
	tests/mutations/run $(ARGS)

# Without Python the comparison with the original is left out.
bench: servers
	@servers/install --with-original || true
	cargo bench --bench pipeline $(ARGS)

# A million sessions take an hour.
size: servers
	cargo bench --bench pipeline -- sessions $(or $(SESSIONS),1000000) only growth

bench-web:
	@servers/install --with-browser
	EZOUT_TEST_REQUIRE=node,chromium EZOUT_WEB_SECONDS=$(or $(SECONDS),600) cargo test --test it web::a_large_shop -- --nocapture

pictures:
	@servers/install --with-browser
	EZOUT_TEST_REQUIRE=node,chromium EZOUT_PICTURES=$(CURDIR)/web/pictures cargo test --test it web:: -- --nocapture

servers:
	@servers/install

try-image:
	servers/try-image $(ARGS)

check:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
