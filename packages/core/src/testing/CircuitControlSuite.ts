/**
 * What every adapter of the shared control of circuits must do.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as CircuitControl from "../resilience/CircuitControl.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /** Lets time pass for the control: by `TestClock` for one that goes by `Clock`. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
}

/**
 * The suite. Every case has names of its own, so all of them can run on one control. `tells`: changes are told at once,
 * not only found by reading.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<"tells", CircuitControl.CircuitControl | R> => {
  const name = Effect.map(SessionStore.makeId, (id) => `suite-${id.slice(0, 12)}`)
  /** What is said of that name. */
  const saidOf = (which: string) =>
    Effect.flatMap(CircuitControl.CircuitControl, (control) =>
      Effect.map(control.overrides, (all) => all.filter((each) => each.name === which))
    )

  return Suite.make<"tells", CircuitControl.CircuitControl | R>("CircuitControl", [
    Suite.test(
      "an override is there until it is cleared, and clearing says whether there was one",
      Effect.gen(function* () {
        const control = yield* CircuitControl.CircuitControl
        const circuit = yield* name
        yield* Suite.equal("before", yield* saidOf(circuit), [])
        yield* control.set(circuit, "forced-open", { reason: "maintenance \u{1F6E0}" })
        const expected: CircuitControl.Override = {
          name: circuit,
          mode: "forced-open",
          until: null,
          reason: "maintenance \u{1F6E0}"
        }
        yield* Suite.equal("set", yield* saidOf(circuit), [expected])
        yield* Suite.equal("clear", yield* control.clear(circuit), true)
        yield* Suite.equal("clear again", yield* control.clear(circuit), false)
        yield* Suite.equal("after", yield* saidOf(circuit), [])
      })
    ),
    Suite.test(
      "the last one said of a name is the one that holds",
      Effect.gen(function* () {
        const control = yield* CircuitControl.CircuitControl
        const circuit = yield* name
        yield* control.set(circuit, "forced-open", { for: "1 minute", reason: "first" })
        yield* control.set(circuit, "metrics-only")
        const expected: CircuitControl.Override = { name: circuit, mode: "metrics-only", until: null, reason: null }
        yield* Suite.equal("set twice", yield* saidOf(circuit), [expected])
      })
    ),
    Suite.test(
      "names are kept apart, also those of a registry and of its keys",
      Effect.gen(function* () {
        const control = yield* CircuitControl.CircuitControl
        const circuit = yield* name
        const key = `${circuit}/a key: {with} *odd* "signs" \u{1F511}`
        yield* control.set(circuit, "forced-open")
        yield* control.set(key, "disabled")
        yield* control.clear(circuit)
        yield* Suite.equal("the registry", yield* saidOf(circuit), [])
        const modes = (yield* saidOf(key)).map((each) => each.mode)
        yield* Suite.equal("the key", modes, ["disabled"])
      })
    ),
    Suite.test(
      "one for a time says when it ends, and is gone then",
      Effect.gen(function* () {
        const control = yield* CircuitControl.CircuitControl
        const circuit = yield* name
        const before = yield* Clock.currentTimeMillis
        yield* control.set(circuit, "forced-open", { for: "1 minute" })
        const after = yield* Clock.currentTimeMillis
        const until = (yield* saidOf(circuit))[0]?.until ?? 0
        // A second is granted to a control that goes by another clock.
        const near = until >= before + 59_000 && until <= after + 61_000
        yield* Suite.equal("ends in a minute", near, true)
        yield* options.advance(Duration.seconds(62))
        yield* Suite.equal("afterwards", yield* saidOf(circuit), [])
        yield* Suite.equal("clear", yield* control.clear(circuit), false)
      })
    ),
    Suite.test(
      "what cannot be set is refused, and changes nothing",
      Effect.gen(function* () {
        const control = yield* CircuitControl.CircuitControl
        const circuit = yield* name
        for (const set of [control.set("", "disabled"), control.set(circuit, "disabled", { for: 0 })]) {
          const error = yield* Effect.flip(set)
          yield* Suite.equal("reason", error.reason, "InvalidOverride")
        }
        yield* Suite.equal("nothing", yield* saidOf(circuit), [])
      })
    ),
    Suite.testWith(
      "who listens hears that it is heard, and of every change to come",
      ["tells"],
      Effect.gen(function* () {
        const control = yield* CircuitControl.CircuitControl
        const circuit = yield* name
        const listening = yield* Deferred.make<void>()
        const changed = yield* Deferred.make<void>()
        let heard = 0
        const listener = yield* control.changes.pipe(
          Stream.runForEach(() => Deferred.succeed(heard++ === 0 ? listening : changed, undefined)),
          Effect.fork
        )
        yield* Deferred.await(listening)
        yield* control.set(circuit, "disabled")
        yield* Deferred.await(changed)
        yield* Suite.equal("is there by then", (yield* saidOf(circuit)).length, 1)
        yield* Fiber.interrupt(listener)
      })
    )
  ])
}
