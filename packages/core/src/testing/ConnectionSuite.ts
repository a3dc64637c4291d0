/**
 * The behaviour of every `Connection`: what a kind makes can be used, counted, checked, interrupted and released.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { type Connection, ConnectionError, type ConnectMode } from "../connection/Connection.ts"
import * as Recording from "./Recording.ts"
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
  /** How many calls `ask` is, on the external plane: each is one span. 1. */
  readonly calls?: number | undefined
  /** The time in which its health answers. 2 s. */
  readonly healthBudget?: Duration.DurationInput | undefined
  /** Connects as is said, to the same. */
  readonly connecting?: ((mode: ConnectMode) => Effect.Effect<Connection<Client>, E, R | Scope.Scope>) | undefined
  /** Connects as is said, to where nobody answers: an address that refuses, or that swallows everything. */
  readonly away?: ((mode: ConnectMode) => Effect.Effect<Connection<Client>, E, R | Scope.Scope>) | undefined
  /** The modes that it has: all three. */
  readonly modes?: ReadonlyArray<ConnectMode> | undefined
  /** Makes one whose release waits for 200 ms at the most. */
  readonly impatient?: Effect.Effect<Connection<Client>, E, R | Scope.Scope> | undefined
  /** Makes and releases that many of them, one after the other and ten at a time: nothing is left. */
  readonly scopes?: number | undefined
  /** What is left of connections by the other side's own count, as far as it is known. */
  readonly left?: Effect.Effect<number, unknown> | undefined
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

  type Needs = Exclude<R, Scope.Scope>

  const scoped = <A, E1>(effect: Effect.Effect<A, E1, R | Scope.Scope>) =>
    Effect.scoped(effect) as Effect.Effect<A, E1, Needs>

  const timely = <A, E1, R1>(limit: Duration.DurationInput, effect: Effect.Effect<A, E1, R1>) =>
    Effect.timeoutFail(Effect.disconnect(effect), {
      duration: limit,
      onTimeout: () =>
        new Suite.SuiteFailure({
          expectation: "in time",
          expected: `an answer within ${Duration.format(Duration.decode(limit))}`,
          actual: "none"
        })
    })

  const becomes = (connection: Connection<Client>, wanted: string) =>
    Effect.flatMap(connection.state, (state) => (state === wanted ? Effect.void : Effect.fail(`it is ${state}`))).pipe(
      Effect.retry({ schedule: Schedule.spaced("20 millis"), times: 500 })
    )

  const refused = (connection: Connection<Client>) =>
    Effect.gen(function* () {
      const asked = yield* Effect.either(connection.use(options.ask))
      yield* Suite.isTrue("use fails", Either.isLeft(asked))
      yield* Suite.equal("health", (yield* connection.health).status, "down")
    })

  const { away, connecting, impatient, scopes } = options
  const modeNames = ["eager", "lazy", "background"] as const
  const has = (mode: ConnectMode): boolean => options.modes === undefined || options.modes.includes(mode)

  const modes =
    connecting === undefined
      ? []
      : [
          Suite.test(
            "eager: it is ready when it is there",
            scoped(
              Effect.flatMap(connecting("eager"), (connection) =>
                Effect.flatMap(connection.state, (state) => Suite.equal("state", state, "ready"))
              )
            )
          ),
          Suite.test(
            "lazy: it is idle until it is asked, and ready then",
            scoped(
              Effect.gen(function* () {
                const connection = yield* connecting("lazy")
                yield* Suite.equal("state", yield* connection.state, "idle")
                yield* Suite.equal("answer", yield* connection.use(options.ask), options.expected)
                yield* Suite.equal("state", yield* connection.state, "ready")
              })
            )
          ),
          Suite.test(
            "background: it becomes ready by itself, and calls need not wait for that",
            scoped(
              Effect.gen(function* () {
                const connection = yield* connecting("background")
                yield* Suite.equal("answer", yield* connection.use(options.ask), options.expected)
                yield* becomes(connection, "ready")
              })
            )
          )
        ]

  const absent =
    away === undefined
      ? []
      : [
          Suite.test(
            "eager: nobody there is a typed failure, in time",
            Effect.gen(function* () {
              const made = yield* timely("20 seconds", Effect.either(scoped(away("eager"))))
              yield* Suite.isTrue("it fails", Either.isLeft(made))
              yield* Suite.isTrue(
                "with a ConnectionError",
                Either.isLeft(made) && (made.left as unknown) instanceof ConnectionError
              )
            })
          ),
          ...(["lazy", "background"] as const).map((mode) =>
            Suite.test(
              `${mode}: nobody there hinders nothing but the calls; health is down; its release does not hang`,
              Effect.gen(function* () {
                const scope = yield* Scope.make()
                const connection = yield* timely("2 seconds", Scope.extend(away(mode), scope))
                yield* timely("40 seconds", refused(connection))
                yield* timely("10 seconds", Scope.close(scope, Exit.void))
                yield* Suite.equal("state", yield* connection.state, "closed")
              }) as Effect.Effect<void, unknown, Needs>
            )
          )
        ]

  const draining =
    impatient === undefined
      ? []
      : [
          Suite.test(
            "its release lets what is under way end, cuts what takes too long, and tells of both",
            Effect.gen(function* () {
              const scope = yield* Scope.make()
              const connection = yield* Scope.extend(impatient, scope)
              const begun = yield* Deferred.make<void>()
              const gate = yield* Deferred.make<void>()
              const ending = yield* Effect.fork(
                connection.use((client) => Effect.zipRight(Deferred.await(gate), options.ask(client)))
              )
              const endless = yield* Effect.fork(
                Effect.exit(connection.use(() => Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never)))
              )
              yield* Deferred.await(begun)
              const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
              yield* becomes(connection, "draining")
              yield* Suite.isTrue("later calls fail", Exit.isFailure(yield* Effect.exit(connection.use(options.ask))))
              yield* Deferred.succeed(gate, undefined)
              yield* Suite.equal("what was under way", yield* Fiber.join(ending), options.expected)
              yield* timely("5 seconds", Fiber.join(closing))
              yield* Suite.isTrue(
                "what took too long fails",
                Exit.isFailure(yield* timely("2 seconds", Fiber.join(endless)))
              )
              const report = yield* timely("1 second", connection.drained)
              yield* Suite.equal("under way", report.inUse, 2)
              yield* Suite.equal("finished", report.finished, 1)
              yield* Suite.equal("cut", report.cut, 1)
            }) as Effect.Effect<void, unknown, Needs>
          )
        ]

  const many =
    scopes === undefined
      ? []
      : [
          Suite.test(
            `${scopes} of them made and released leave nothing`,
            Effect.gen(function* () {
              const before = options.left === undefined ? 0 : yield* options.left
              const one = using((connection) => connection.use(options.ask))
              yield* Effect.forEach(Array.from({ length: scopes }), () => one, { concurrency: 10, discard: true })
              const left = options.left
              if (left === undefined) return
              yield* Effect.flatMap(left, (now) => (now <= before ? Effect.void : Effect.fail(now - before))).pipe(
                Effect.retry({ schedule: Schedule.spaced("50 millis"), times: 100 }),
                Effect.catchAll((count) => Suite.equal("what is left", count, 0))
              )
            })
          )
        ]

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
        yield* Suite.equal("state", yield* connection.state, "closed")
        const report = yield* timely("1 second", connection.drained)
        yield* Suite.equal("the report's name", report.name, connection.name)
        yield* Suite.equal("the report's kind", report.kind, connection.kind)
        yield* Suite.equal("what was under way", report.inUse, 0)
        yield* Suite.isTrue("how long it took", report.tookMs >= 0)
      }) as Effect.Effect<void, unknown, Exclude<R, Scope.Scope>>
    ),
    Suite.test(
      "twenty who ask for its health at once are answered in its budget",
      using((connection) =>
        Effect.gen(function* () {
          const budget = Duration.sum(Duration.decode(options.healthBudget ?? "2 seconds"), Duration.millis(50))
          const asking = Effect.all(
            Array.from({ length: 20 }, () => connection.health),
            { concurrency: "unbounded" }
          )
          for (const { status } of yield* timely(budget, asking)) yield* Suite.equal("health", status, "up")
        })
      )
    ),
    Suite.test(
      "on the internal plane nothing is shown; on the external plane each call is one span of a client",
      Effect.gen(function* () {
        const recording = yield* Recording.make
        const plane = yield* recording.within(
          using((connection) =>
            Effect.gen(function* () {
              yield* recording.clear
              yield* connection.use(options.ask)
              if (connection.plane === "internal") {
                yield* Effect.exit(connection.use(() => Effect.fail("mine")))
                yield* connection.health
              }
              return connection.plane
            })
          )
        )
        const spans = yield* recording.spans
        if (plane === "internal") {
          yield* Suite.equal("spans", spans.length, 0)
          yield* Suite.equal("log lines", (yield* recording.lines).length, 0)
          return
        }
        const calls = spans.filter((span) => span.parent._tag === "None")
        yield* Suite.equal("calls", calls.length, options.calls ?? 1)
        for (const { kind } of calls) yield* Suite.equal("kind", kind, "client")
      })
    ),
    ...[...modes, ...absent].filter(({ name }) => modeNames.some((mode) => has(mode) && name.startsWith(`${mode}:`))),
    ...draining,
    ...many
  ])
}
