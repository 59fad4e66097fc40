"""What the schemas cannot say about a request, so that a valid one is valid and is held to its acceptance."""

import schemathesis
from schemathesis import GenerationMode

# A basket that never gets as new as asked is waited for 5 s; a few of them say all there is to say.
WAITS_MAX = 5
# More events than a run records.
FAR_AWAY = 100_000
# A place that the journal has soon.
PLACE_MAX = 4

waits = 0


def is_valid(case):
    return case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return str(value).encode()


@schemathesis.hook
def filter_case(context, case):
    # Any text with something in it is lines, of which each gets its own verdict, so there is no wrong type of it.
    return is_valid(case) or case.media_type != "application/x-ndjson"


@schemathesis.hook
def before_call(context, case, kwargs):
    if is_valid(case):
        fit_query(case)
        fit_event(case)


def fit_query(case):
    global waits
    # These exclude each other.
    for name in [name for name in ("min_sequence", "at", "sequence") if name in case.query][1:]:
        del case.query[name]
    # Only for a replay, which is asked for in Accept.
    case.query.pop("speed", None)
    if int(case.query.get("min_sequence", 0)) > FAR_AWAY:
        waits += 1
        if waits > WAITS_MAX:
            case.query["min_sequence"] = 1


def fit_event(case):
    if not isinstance(case.body, dict):
        return
    # Money has four decimals, which JSON Schema cannot say of doubles.
    for name in ("product_price", "basket_total"):
        if isinstance(case.body.get(name), float):
            case.body[name] = round(case.body[name], 4)
    if isinstance(case.body.get("author"), str):
        fit_correction(case.body)
        return
    # The shop of the event is the one in the path.
    for name in ("shop_id", "shop"):
        if name in case.path_parameters:
            case.body["shop_id"] = case.path_parameters[name]


def fit_correction(body):
    # A place that the journal does not have is refused.
    if isinstance(body.get("base_sequence"), int) and body["base_sequence"] > PLACE_MAX:
        del body["base_sequence"]
    for asked in body.values():
        for name in ("price", "by"):
            if isinstance(asked, dict) and isinstance(asked.get(name), float):
                asked[name] = round(asked[name], 4)
