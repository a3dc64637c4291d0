/**
 * The behaviour of every `Connection`: what a kind makes can be used, counted, checked, interrupted and released.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { Connection } from "../connection/Connection.ts"
import * as Suite from "./Suite.ts"

/**
 * What the suite has to know of a kind: how a connection is made, and some harmless request that needs the other side and
 * gives `expected`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<Client, E, R> {
  readonly make: Effect.Effect<Connection<Client>, E, R | Scope.Scope>
  readonly ask: (client: Client) => Effect.Effect<unknown, unknown>
  readonly expected: unknown
}

/**
 * The behaviours, as cases that each make a connection of their own. They need a clock that goes by itself.
 *
 * @since 0.1.0
 * @category testing
 */
export const suite = <Client, E, R>(options: Options<Client, E, R>): Suite.Suite<never, Exclude<R, Scope.Scope>> => {
  const using = <A, E1>(use: (connection: Connection<Client>) => Effect.Effect<A, E1, Scope.Scope>) =>
    Effect.scoped(Effect.flatMap(options.make, use)) as Effect.Effect<A, E | E1, Exclude<R, Scope.Scope>>

  const quiet = (connection: Connection<Client>) =>
    Effect.flatMap(connection.stats, ({ inUse, waiting }) =>
      inUse === 0 && waiting === 0 ? Effect.void : Effect.fail("busy")
    ).pipe(Effect.retry({ schedule: Schedule.spaced("10 millis"), times: 200 }))

  return Suite.make<never, Exclude<R, Scope.Scope>>("Connection", [
    Suite.test(
      "it has a name, a kind and a plane",
      using((connection) =>
        Effect.all([
          Suite.isTrue("name", connection.name.length > 0),
          Suite.isTrue("kind", connection.kind.length > 0),
          Suite.isTrue("plane", connection.plane === "internal" || connection.plane === "external")
        ])
      ).pipe(Effect.asVoid)
    ),
    Suite.test(
      "use lends the client and gives its answer; twenty at once get theirs",
      using((connection) =>
        Effect.gen(function* () {
          yield* Suite.equal("one", yield* connection.use(options.ask), options.expected)
          const many = Array.from({ length: 20 }, () => connection.use(options.ask))
          for (const answer of yield* Effect.all(many, { concurrency: "unbounded" })) {
            yield* Suite.equal("each of many", answer, options.expected)
          }
          yield* quiet(connection)
        })
      )
    ),
    Suite.test(
      "a failure of the user's own passes through use unchanged",
      using((connection) =>
        Effect.asVoid(
          Suite.fails(
            "the failure",
            connection.use(() => Effect.fail("mine")),
            (error) => error === "mine"
          )
        )
      )
    ),
    Suite.test(
      "health is up, the statistics add up",
      using((connection) =>
        Effect.gen(function* () {
          yield* connection.use(options.ask)
          yield* Suite.equal("health", (yield* connection.health).status, "up")
          const { idle, inUse, total, waiting } = yield* connection.stats
          yield* Suite.isTrue("no part is negative", Math.min(idle, inUse, total, waiting) >= 0)
          yield* Suite.isTrue("the parts are no more than the whole", idle + inUse <= total)
        })
      )
    ),
    Suite.test(
      "use can be interrupted, and the connection works on",
      using((connection) =>
        Effect.gen(function* () {
          const begun = yield* Deferred.make<void>()
          const fiber = yield* Effect.fork(
            connection.use(() => Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never))
          )
          yield* Deferred.await(begun)
          yield* Fiber.interrupt(fiber)
          yield* quiet(connection)
          yield* Suite.equal("afterwards", yield* connection.use(options.ask), options.expected)
        })
      )
    ),
    Suite.test(
      "after its release nothing hangs: use fails, health is not up, nothing is left",
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const connection = yield* Scope.extend(options.make, scope)
        yield* connection.use(options.ask)
        yield* Scope.close(scope, yield* Effect.exit(Effect.void))
        const after = yield* Effect.timeoutTo(Effect.exit(connection.use(options.ask)), {
          duration: "5 seconds",
          onSuccess: (exit) => exit._tag,
          onTimeout: () => "it hangs" as const
        })
        yield* Suite.equal("use", after, "Failure")
        yield* Suite.isTrue("health", (yield* connection.health).status !== "up")
        const { idle, inUse } = yield* connection.stats
        yield* Suite.equal("what is left", idle + inUse, 0)
      }) as Effect.Effect<void, unknown, Exclude<R, Scope.Scope>>
    )
  ])
}
