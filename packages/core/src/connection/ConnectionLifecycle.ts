/**
 * What all connections have in common, for those who write one: when the client is made and made again, which calls are
 * under way, how the other side is asked for its health in bounded time, and how all of it is released.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as ExternalClient from "../external/ExternalClient.ts"
import { withoutCallReferences } from "../internal/callReferences.ts"
import { inherit } from "../internal/resilience/timed.ts"
import * as Health from "../operations/Health.ts"
import * as ErrorClass from "../resilience/ErrorClass.ts"
import * as Policy from "../resilience/Policy.ts"
import * as Timeout from "../resilience/Timeout.ts"
import {
  type CheckResult,
  type Connection,
  ConnectionError,
  type ConnectionErrorReason,
  type ConnectionStats,
  type ConnectMode,
  type DrainReport,
  type Plane,
  type State
} from "./Connection.ts"

/**
 * What a check gives: a result, or nothing where an answer is all that was wanted.
 *
 * @since 0.1.0
 * @category models
 */
// biome-ignore lint/suspicious/noConfusingVoidType: a check that ends with an effect for its own sake has this type
export type Checked = Effect.Effect<CheckResult | void, ConnectionError>

/**
 * What the life of a connection is made of.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<Client> {
  readonly kind: string
  readonly name: string
  readonly plane: Plane
  /** Eager. */
  readonly connect?: ConnectMode | undefined
  /**
   * Makes the client. What it acquires is released with the connection, or at once if it fails. It is run once at a time,
   * however many wait for it, and again by the next who asks after it failed.
   */
  readonly open: Effect.Effect<Client, ConnectionError, Scope.Scope>
  /** How long it may take to open, and to check what was opened; also where that cannot be interrupted. 5 s. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long the release waits for calls that are under way. 5 s. */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** The time in which `health` answers, whatever the other side does. 1 s. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** Asks the other side. What it fails with is shown in the details of the health: it must not hold a secret. */
  readonly check: (client: Client) => Checked
  /** By default the calls under way. */
  readonly stats?: ((client: Client) => Effect.Effect<ConnectionStats>) | undefined
  /**
   * On the external plane: how calls are watched. By default there is a limit of 30 s, three attempts where the call is
   * idempotent or nothing was sent, and a circuit breaker; a `Conflict` is never tried again.
   */
  readonly watch?: Omit<ExternalClient.Options, "service" | "health"> | undefined
  /** On the external plane: what watches the calls, where it is made elsewhere; `watch` is not read then. */
  readonly watcher?: ExternalClient.ExternalClient | undefined
  /**
   * On the external plane: whether `connection.use` is itself a call that is watched, of the name `use`. For a client that
   * is a driver's own. False: the client's methods are made with `call`.
   */
  readonly watchUse?: boolean | undefined
  /**
   * Whether whatever a `call` does fails by itself, at once, when the client is released, also where it cannot be
   * interrupted. True only where that is so: then a call on the internal plane needs no fiber of its own, and costs next to
   * nothing. False by default: the release cuts the fiber of the call.
   */
  readonly callsEndWithClient?: boolean | undefined
}

/**
 * What a single call may say.
 *
 * @since 0.1.0
 * @category models
 */
export interface CallOptions {
  /** Whether it may be sent twice: false by default, and then it is only made again where nothing was sent. */
  readonly idempotent?: boolean | undefined
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  /** The limit of the whole call. For a stream: until its first element. */
  readonly timeout?: Duration.DurationInput | false | undefined
  readonly spanName?: string | undefined
}

/**
 * A connection and what its client is lent with.
 *
 * @since 0.1.0
 * @category models
 */
export interface Lifecycle<Client> {
  readonly connection: Connection<Client>
  /**
   * Lends the client to one operation. It is refused (`Closed`) once the connection is being released, except within a
   * `use` that is under way; it is counted, cut when the release does not wait for it any longer (with
   * `callsEndWithClient`, by the end of the client), and on the external plane watched. What its policy fails with comes
   * as `ConnectionError`.
   */
  readonly call: <A, E, R>(
    operation: string,
    f: (client: Client) => Effect.Effect<A, E, R>,
    options?: CallOptions
  ) => Effect.Effect<A, E | ConnectionError, R>
  /** The same for a stream: lent as long as it lasts. */
  readonly stream: <A, E, R>(
    operation: string,
    f: (client: Client) => Stream.Stream<A, E, R>,
    options?: CallOptions
  ) => Stream.Stream<A, E | ConnectionError, R>
  /**
   * Lends the client until the scope closes, for what lasts longer than one effect. The release of the connection waits for
   * it as for a call; when it waits no longer, what ends it is that the client is released.
   */
  readonly borrow: Effect.Effect<Client, ConnectionError, Scope.Scope>
  /** The client, made if there is none yet. */
  readonly client: Effect.Effect<Client, ConnectionError>
}

/** One who has the client, or waits for it. */
interface Borrower {
  cut: (() => void) | undefined
  /** Whether the release did not wait for it. */
  isCut: boolean
}

/** The uses that this is done within; one that has ended stands for nothing, wherever it got to by a join. */
class Lending extends Context.Reference<Lending>()("@underlay/core/internal/Lending", {
  defaultValue: (): ReadonlySet<object> => new Set()
}) {}

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/**
 * Makes a connection that opens, lends, checks and releases its client as the options say, and registers its health.
 *
 * If it is eager it fails with what `open` or `check` failed with; in the background it is there at once, is tried again
 * with growing waits until it is ready, and calls that come meanwhile try for themselves.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* <Client>(
  options: Options<Client>
): Effect.fn.Return<Lifecycle<Client>, ConnectionError, Scope.Scope> {
  const { kind, name, plane } = options
  const mode = options.connect ?? "eager"
  const connectTimeout = Duration.decode(options.connectTimeout ?? "5 seconds")
  const drainTimeout = Duration.decode(options.drainTimeout ?? "5 seconds")
  const healthTimeout = Duration.decode(options.healthTimeout ?? "1 second")

  const error = (reason: ConnectionErrorReason, method: string, description: string, cause?: unknown) =>
    new ConnectionError({
      reason,
      kind,
      connection: name,
      method,
      description,
      sent: false,
      ...(cause === undefined ? {} : { cause })
    })
  const refusal = (method: string) => error("Closed", method, "it is released already")

  // Plain state: it changes only in synchronous steps, and this is on the path of every call.
  let phase: "open" | "draining" | "closed" = "open"
  let seen: "idle" | "connecting" | "ready" | "down" = "idle"
  let opened: { readonly client: Client; readonly scope: Scope.CloseableScope } | undefined
  let flight: Deferred.Deferred<Client, ConnectionError> | undefined
  let attempting: Fiber.RuntimeFiber<void> | undefined
  let asking: Deferred.Deferred<CheckResult> | undefined
  let orphan: { readonly since: number } | undefined
  let empty: Deferred.Deferred<void> | undefined
  const borrowers = new Set<Borrower>()
  const uses = new Set<object>()
  const openings = new Set<Deferred.Deferred<void>>()
  const acquired = { count: 0, totalMs: 0, maxMs: 0 }
  let waiting = 0
  const released = yield* Deferred.make<DrainReport>()

  const fork = yield* FiberSet.makeRuntime<never, void, never>()
  /** In the background, with nothing of the call that happens to be under way. */
  const background = (effect: Effect.Effect<void>): Fiber.RuntimeFiber<void> =>
    fork(Effect.mapInputContext(effect, (context: Context.Context<never>) => withoutCallReferences(context)))

  const external = plane === "internal" ? undefined : (options.watcher ?? (yield* watching(name, options.watch)))

  // ---- the client ----------------------------------------------------------------------------------------------------

  /** Runs on a fiber of its own, so that the limit holds also where it cannot be interrupted. */
  const attempt = (landing: Deferred.Deferred<Client, ConnectionError>): Effect.Effect<void> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const gone = yield* Deferred.make<void>()
        openings.add(gone)
        const scope = yield* Scope.make()
        const fiber = yield* quietly(Scope.extend(options.open, scope))
        const exit = yield* Effect.exit(restore(Effect.timeoutOption(Fiber.join(fiber), connectTimeout)))
        const outcome: Exit.Exit<Client, ConnectionError> =
          Exit.isFailure(exit) || phase !== "open"
            ? Exit.fail(refusal("connect"))
            : Option.isNone(exit.value)
              ? Exit.fail(
                  error("Timeout", "connect", `it could not be connected within ${Duration.format(connectTimeout)}`)
                )
              : exit.value.value
        flight = undefined
        if (Exit.isSuccess(outcome)) {
          opened = { client: outcome.value, scope }
          if (mode === "lazy") seen = "ready"
          openings.delete(gone)
        } else {
          seen = "down"
          yield* Fiber.interrupt(fiber).pipe(
            Effect.zipRight(Scope.close(scope, Exit.void)),
            Effect.ensuring(
              Effect.suspend(() => {
                openings.delete(gone)
                return Deferred.succeed(gone, undefined)
              })
            ),
            Effect.forkDaemon
          )
        }
        yield* Deferred.done(landing, outcome)
      })
    )

  const client: Effect.Effect<Client, ConnectionError> = Effect.suspend(() => {
    if (phase !== "open" && opened === undefined) return refusal("connect")
    if (opened !== undefined) return Effect.succeed(opened.client)
    if (flight === undefined) {
      const landing = Deferred.unsafeMake<Client, ConnectionError>(FiberId.none)
      flight = landing
      if (seen !== "ready") seen = "connecting"
      attempting = background(attempt(landing))
      return Deferred.await(landing)
    }
    return Deferred.await(flight)
  })

  const settle = (now: "ready" | "down") =>
    Effect.sync(() => {
      seen = now
    })

  /** Opens, and asks whether that is of any use. */
  const proven: Effect.Effect<void, ConnectionError> = Effect.flatMap(client, (it) =>
    Effect.flatMap(options.check(it), (result) =>
      result !== undefined && result.status === "down"
        ? error("Unavailable", "connect", "the other side is not ready")
        : Effect.void
    )
  ).pipe(
    limited(connectTimeout, () =>
      error("Timeout", "connect", `it did not answer within ${Duration.format(connectTimeout)}`)
    ),
    Effect.onExit((exit) => settle(Exit.isSuccess(exit) ? "ready" : "down"))
  )

  // ---- calls ---------------------------------------------------------------------------------------------------------

  const enter = (method: string): Effect.Effect<Borrower, ConnectionError> =>
    Effect.suspend(() => {
      const admit = Effect.sync(() => {
        const borrower: Borrower = { cut: undefined, isCut: false }
        borrowers.add(borrower)
        return borrower
      })
      if (phase === "open") return admit
      if (phase === "closed") return refusal(method)
      return Effect.flatMap(Lending, (lending) => ([...lending].some((use) => uses.has(use)) ? admit : refusal(method)))
    })

  const leave = (borrower: Borrower): void => {
    borrowers.delete(borrower)
    if (empty !== undefined && borrowers.size === 0) Deferred.unsafeDone(empty, Exit.void)
  }

  /** The client for one borrower; how long that takes is kept. */
  const lent: Effect.Effect<Client, ConnectionError> = Effect.suspend(() => {
    acquired.count++
    if (opened !== undefined) return Effect.succeed(opened.client)
    return Effect.flatMap(Clock.currentTimeMillis, (since) => {
      waiting++
      return Effect.ensuring(
        client,
        Effect.map(Clock.currentTimeMillis, (now) => {
          waiting--
          acquired.totalMs += now - since
          acquired.maxMs = Math.max(acquired.maxMs, now - since)
        })
      )
    })
  })

  const tooLate = (method: string) =>
    new ConnectionError({
      reason: "Closed",
      kind,
      connection: name,
      method,
      description: `the connection was released, and this had not ended within ${Duration.format(drainTimeout)}`
    })

  /**
   * Runs it so that the release of the connection can end it, with an error for who waits for it. It is on a fiber of its
   * own, so that the caller's other work is not interrupted with it; that one starts at once, so that it costs no turn of
   * the scheduler.
   */
  const cuttable =
    (restore: Restore, borrower: Borrower, method: string) =>
    <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | ConnectionError, R> =>
      Effect.withFiberRuntime<A, E | ConnectionError, R>((parent, status) => {
        const runtime = Runtime.make({
          context: parent.currentContext as Context.Context<R>,
          runtimeFlags: status.runtimeFlags,
          fiberRefs: parent.getFiberRefs()
        })
        // It ends with its exit: a fiber that fails, and that nobody joins, would be logged.
        const fiber = Runtime.runFork(runtime, Effect.exit(restore(effect)))
        const polled = fiber.unsafePoll()
        if (polled !== null) return inherit(parent, fiber, Exit.flatten(polled))
        return restore(
          Effect.async<Exit.Exit<A, E | ConnectionError>>((resume) => {
            const ended = (exit: Exit.Exit<Exit.Exit<A, E>>): void => resume(exit)
            fiber.addObserver(ended)
            borrower.cut = () => {
              fiber.removeObserver(ended)
              fiber.unsafeInterruptAsFork(FiberId.none)
              resume(Effect.succeed(Exit.fail(tooLate(method))))
            }
            if (borrower.isCut) borrower.cut()
          })
        ).pipe(
          Effect.onInterrupt(() => Fiber.interrupt(fiber)),
          Effect.flatMap((exit) => (borrower.isCut ? exit : inherit(parent, fiber, exit)))
        )
      })

  const lend = <A, E, R>(
    method: string,
    f: (client: Client) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | ConnectionError, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(enter(method), (borrower) =>
        Effect.flatMap(restore(lent), (it) => cuttable(restore, borrower, method)(Effect.suspend(() => f(it)))).pipe(
          Effect.onExit((exit) =>
            Effect.sync(() => {
              if (Exit.isSuccess(exit) && seen !== "ready") seen = "ready"
              leave(borrower)
            })
          )
        )
      )
    )

  /**
   * As `lend`, for what fails by itself once the client is released: it runs on the caller's fiber, and nothing has to be
   * cut. What it then fails with is told as what it is, the end of the connection.
   */
  const lendUntilReleased = <A, E, R>(
    method: string,
    f: (client: Client) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | ConnectionError, R> =>
    Effect.uninterruptibleMask((restore) => {
      if (phase !== "open" || opened === undefined) return restore(lend(method, f))
      const { client } = opened
      const borrower: Borrower = { cut: undefined, isCut: false }
      acquired.count++
      borrowers.add(borrower)
      return Effect.matchCauseEffect(restore(Effect.suspend(() => f(client))), {
        onFailure: (cause): Effect.Effect<never, E | ConnectionError> => {
          leave(borrower)
          return borrower.isCut && Option.isSome(Cause.failureOption(cause))
            ? Effect.fail(tooLate(method))
            : Effect.failCause(cause)
        },
        onSuccess: (value) => {
          if (seen !== "ready") seen = "ready"
          leave(borrower)
          return Effect.succeed(value)
        }
      })
    })

  const borrow: Lifecycle<Client>["borrow"] = Effect.uninterruptibleMask((restore) =>
    Effect.zipRight(
      Effect.acquireRelease(enter("borrow"), (borrower) => Effect.sync(() => leave(borrower))),
      restore(lent)
    )
  )

  const lendStream = <A, E, R>(
    method: string,
    f: (client: Client) => Stream.Stream<A, E, R>
  ): Stream.Stream<A, E | ConnectionError, R> =>
    Stream.unwrapScoped(
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const borrower = yield* Effect.acquireRelease(enter(method), (it) => Effect.sync(() => leave(it)))
          const it = yield* restore(lent)
          const pull = yield* Stream.toPull(Stream.suspend(() => f(it)))
          const next: Effect.Effect<Chunk.Chunk<A>, ConnectionError | Option.Option<E>, R> = Effect.uninterruptibleMask(
            (restore) => (borrower.isCut ? tooLate(method) : cuttable(restore, borrower, method)(pull))
          )
          return Stream.repeatEffectChunkOption(
            Effect.mapError(
              next,
              (failure): Option.Option<E | ConnectionError> =>
                failure instanceof ConnectionError ? Option.some(failure) : failure
            )
          )
        })
      )
    )

  const fromPolicy =
    (method: string) =>
    <E>(failure: E | ExternalClient.ExternalError): E | ConnectionError =>
      isExternalError(failure) ? policyError({ kind, name }, method, failure) : failure

  const call: Lifecycle<Client>["call"] = (operation, f, given) => {
    if (external !== undefined) {
      return Effect.mapError(
        external.call(operation, lend(operation, f), { ...given, idempotent: given?.idempotent ?? false }),
        fromPolicy(operation)
      )
    }
    const timeout = given?.timeout
    const lending = options.callsEndWithClient === true ? lendUntilReleased(operation, f) : lend(operation, f)
    return timeout === undefined || timeout === false
      ? lending
      : limited(timeout, () => late(operation, Duration.decode(timeout)))(lending)
  }

  const late = (method: string, limit: Duration.Duration) =>
    new ConnectionError({
      reason: "Timeout",
      kind,
      connection: name,
      method,
      description: `it took longer than ${Duration.format(limit)}`
    })

  const stream: Lifecycle<Client>["stream"] = (operation, f, given) => {
    const lending = lendStream(operation, f)
    if (external === undefined) return lending
    return Stream.mapError(
      external.stream(operation, lending, { ...given, idempotent: given?.idempotent ?? false }),
      fromPolicy(operation)
    )
  }

  const within = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const use = {}
        uses.add(use)
        return use
      }),
      (use) =>
        Effect.mapInputContext(effect, (context: Context.Context<R>) =>
          Context.add(context, Lending, new Set([...Context.get(context, Lending), use]))
        ),
      (use) => Effect.sync(() => uses.delete(use))
    )

  const use: Connection<Client>["use"] = (f) =>
    options.watchUse === true && external !== undefined
      ? call("use", (it) => within(f(it)))
      : lend("use", (it) => within(f(it)))

  // ---- health --------------------------------------------------------------------------------------------------------

  const stats: Effect.Effect<ConnectionStats> = Effect.suspend(() => {
    const busy = borrowers.size - waiting
    const own: ConnectionStats = { total: busy, idle: 0, inUse: busy, waiting }
    const found =
      options.stats === undefined
        ? Effect.succeed(own)
        : opened === undefined
          ? Effect.succeed({ total: 0, idle: 0, inUse: 0, waiting })
          : options.stats(opened.client)
    return Effect.map(found, (them): ConnectionStats => ({ acquire: { ...acquired }, ...them }))
  })

  const checked: Effect.Effect<CheckResult, ConnectionError> = Effect.map(
    Effect.flatMap(client, (it) => options.check(it)),
    (result) => result ?? { status: "up" }
  )

  const look: Effect.Effect<CheckResult> = Effect.gen(function* () {
    const now = yield* Clock.currentTimeMillis
    if (orphan !== undefined) {
      return down("Timeout", `the check that began ${now - orphan.since} ms ago has still not ended`)
    }
    const work = { since: now }
    const fiber = yield* quietly(checked)
    orphan = work
    fiber.addObserver(() => {
      if (orphan === work) orphan = undefined
    })
    const outcome = yield* Effect.onInterrupt(Effect.timeoutOption(Fiber.join(fiber), healthTimeout), () =>
      Fiber.interruptFork(fiber)
    )
    if (Option.isNone(outcome)) {
      yield* Fiber.interruptFork(fiber)
      return down("Timeout", `no answer within ${Duration.format(healthTimeout)}`)
    }
    if (Exit.isSuccess(outcome.value)) return outcome.value.value
    const failure = Cause.failureOption(outcome.value.cause)
    return Option.isSome(failure)
      ? down(failure.value.reason, failure.value.description, failure.value.code)
      : down("Unknown", Cause.isInterruptedOnly(outcome.value.cause) ? "the check was interrupted" : "the check died")
  })

  const answered: Effect.Effect<CheckResult> = Effect.suspend(() => {
    if (phase !== "open") return Effect.succeed(down("Closed", "it is released already"))
    if (asking !== undefined) return Deferred.await(asking)
    const asked = Deferred.unsafeMake<CheckResult>(FiberId.none)
    asking = asked
    background(
      look.pipe(
        Effect.onExit((exit) =>
          Effect.suspend(() => {
            asking = undefined
            const result = Exit.isSuccess(exit) ? exit.value : down("Unknown", "the check was interrupted")
            if (phase === "open") seen = result.status === "down" ? "down" : "ready"
            return Deferred.succeed(asked, result)
          })
        ),
        Effect.exit,
        Effect.asVoid
      )
    )
    return Deferred.await(asked)
  })

  /** The counts, where they are there before the time of a check that began then is over. */
  const countedBy = (began: number): Effect.Effect<Partial<ConnectionStats>> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.map(
        Effect.exit(
          Effect.timeoutOption(
            Effect.disconnect(stats),
            Duration.max(Duration.subtract(healthTimeout, Duration.millis(now - began)), Duration.millis(1))
          )
        ),
        (exit) => (Exit.isSuccess(exit) ? Option.getOrElse(exit.value, () => ({})) : {})
      )
    )

  const health: Effect.Effect<CheckResult> = Effect.gen(function* () {
    const began = yield* Clock.currentTimeMillis
    const result = yield* answered
    const { acquire: _, ...counts } = yield* countedBy(began)
    const circuit = external?.breaker === undefined ? {} : { circuit: yield* external.breaker.state }
    return { ...result, details: { state: stateNow(), ...counts, ...circuit, ...result.details } }
  })

  const stateNow = (): State => (phase === "open" ? seen : phase)

  // ---- the end -------------------------------------------------------------------------------------------------------

  // On a fiber of its own: in one that was interrupted nothing could be waited for with a limit.
  const end = Effect.gen(function* () {
    const began = yield* Clock.currentTimeMillis
    phase = "draining"
    // Who waits for a client is told; who has it may end.
    if (flight !== undefined) {
      Deferred.unsafeDone(flight, Exit.fail(refusal("connect")))
      attempting?.unsafeInterruptAsFork(FiberId.none)
    }
    const inUse = borrowers.size - waiting
    if (borrowers.size > 0) {
      empty = yield* Deferred.make<void>()
      yield* Effect.interruptible(Effect.timeoutOption(Deferred.await(empty), drainTimeout))
    }
    const left = [...borrowers]
    for (const borrower of left) {
      borrower.isCut = true
      borrower.cut?.()
    }
    phase = "closed"
    const was = opened
    opened = undefined
    yield* Effect.all(
      [
        was === undefined ? Effect.void : Scope.close(was.scope, Exit.void),
        Effect.forEach([...openings], Deferred.await, { concurrency: "unbounded", discard: true })
      ],
      { concurrency: "unbounded", discard: true }
    ).pipe(
      // A client that does not end holds nobody up for ever.
      Effect.disconnect,
      Effect.timeoutOption(Duration.max(drainTimeout, Duration.seconds(1))),
      Effect.interruptible
    )
    const ended = yield* Clock.currentTimeMillis
    yield* Deferred.succeed(released, {
      kind,
      name,
      inUse,
      finished: Math.max(0, inUse - left.length),
      cut: left.length,
      tookMs: ended - began
    })
  })
  yield* Effect.addFinalizer(() => Effect.flatMap(Effect.forkDaemon(end), Fiber.await))

  const connection: Connection<Client> = {
    name,
    kind,
    plane,
    use,
    health,
    stats,
    state: Effect.sync(stateNow),
    drained: Deferred.await(released)
  }
  if (mode === "eager") yield* proven
  if (mode === "background") {
    seen = "connecting"
    background(
      // Also after a defect: nobody else would try again.
      Effect.retry(Effect.sandbox(proven), {
        schedule: Schedule.exponential("100 millis").pipe(
          Schedule.jittered,
          Schedule.modifyDelay((_, delay) => Duration.min(delay, Duration.seconds(30)))
        ),
        while: () => phase === "open"
      }).pipe(Effect.ignore)
    )
  }
  yield* Health.register({ name, timeout: Duration.sum(healthTimeout, Duration.millis(50)), check: health })
  return { connection, call, stream, borrow, client }
})

/** With a limit that holds also where the effect cannot be interrupted. */
const limited =
  (limit: Duration.DurationInput, onTimeout: () => ConnectionError) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | ConnectionError, R> =>
    Effect.flatten(
      Effect.mapError(Timeout.within(Effect.either(effect), { duration: limit, service: "connection" }), onTimeout)
    )

/** On a fiber of its own that ends with the exit: one that fails, and that nobody joins, would be logged. */
const quietly = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<Fiber.RuntimeFiber<Exit.Exit<A, E>>, never, R> =>
  Effect.forkDaemon(Effect.uninterruptible(Effect.exit(Effect.interruptible(effect))))

const down = (reason: string, text: string, code?: string): CheckResult => ({
  status: "down",
  details: { reason, error: text, ...(code === undefined ? {} : { code }) }
})

/**
 * How the calls of a connection are classified for retries and circuit breakers: as everywhere, but what was sent once and
 * was in conflict is in conflict again, for only who knows what changed can try anew.
 *
 * @since 0.1.0
 * @category constructors
 */
export const classify: ErrorClass.Classify = (failure) =>
  failure instanceof ConnectionError && failure.reason === "Conflict"
    ? { class: "permanent" }
    : ErrorClass.classify(failure)

const watching = (service: string, options: Options<unknown>["watch"]) => {
  const given = options?.policy
  const policy = Policy.isPolicy(given) ? given : { classify, ...given }
  return ExternalClient.make({ ...options, service, health: false, policy })
}

const externalTags: ReadonlySet<string> = new Set<ExternalClient.ExternalError["_tag"]>([
  "CircuitOpen",
  "CallTimeout",
  "BulkheadFull",
  "RateLimitExceeded",
  "CallThrottled",
  "StageRejected",
  "ResponseInvalid"
])

const isExternalError = <E>(failure: E | ExternalClient.ExternalError): failure is ExternalClient.ExternalError =>
  typeof failure === "object" &&
  failure !== null &&
  "_tag" in failure &&
  typeof failure._tag === "string" &&
  externalTags.has(failure._tag)

/**
 * What a watching client adds to the errors of a call, as an error of the connection: limits of time, and refusals before
 * the other side was asked, with when to ask again where that is known.
 *
 * @since 0.1.0
 * @category errors
 */
export const policyError = (
  at: { readonly kind: string; readonly name: string },
  method: string,
  error: ExternalClient.ExternalError
): ConnectionError => {
  const after = "retryAfter" in error && error.retryAfter !== undefined ? error.retryAfter : undefined
  return new ConnectionError({
    reason: reasonOf(error),
    kind: at.kind,
    connection: at.name,
    method,
    description: error.message,
    ...(after === undefined || !Duration.isFinite(after) ? {} : { retryAfter: after }),
    cause: error
  })
}

const reasonOf = (error: ExternalClient.ExternalError): ConnectionErrorReason => {
  switch (error._tag) {
    case "CallTimeout":
      return "Timeout"
    case "RateLimitExceeded":
    case "CallThrottled":
      return "Throttled"
    case "BulkheadFull":
      return error.isRetryable ? "Throttled" : "InvalidRequest"
    case "CircuitOpen":
    case "StageRejected":
      return "Unavailable"
    case "ResponseInvalid":
      return "Unknown"
  }
}

/**
 * The end of a connection that has a pool of its own: what `state` and `drained` tell.
 *
 * @since 0.1.0
 * @category models
 */
export interface Tracker {
  readonly drained: Effect.Effect<DrainReport>
  /** `draining` or `closed` once that has begun; otherwise what is given. */
  readonly state: (open: Effect.Effect<State>) => Effect.Effect<State>
  /** To be called after the pool was made: from its release on, what is in use then counts as under way. */
  readonly begin: (stats: Effect.Effect<ConnectionStats>) => Effect.Effect<void, never, Scope.Scope>
  /** Tells how many of them the pool did not wait for. */
  readonly cut: (count: number) => void
}

/**
 * Follows the release of a pool: call it before the pool is made, and `begin` after.
 *
 * @since 0.1.0
 * @category constructors
 */
export const track = Effect.fnUntraced(function* (at: {
  readonly kind: string
  readonly name: string
}): Effect.fn.Return<Tracker, never, Scope.Scope> {
  const released = yield* Deferred.make<DrainReport>()
  let phase: "open" | "draining" | "closed" = "open"
  let began: number | undefined
  let inUse = 0
  let cut = 0
  yield* Effect.addFinalizer(() =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      phase = "closed"
      const { kind, name } = at
      const tookMs = began === undefined ? 0 : now - began
      return Deferred.succeed(released, { kind, name, inUse, finished: Math.max(0, inUse - cut), cut, tookMs })
    })
  )
  return {
    drained: Deferred.await(released),
    state: (open) => Effect.suspend(() => (phase === "open" ? open : Effect.succeed(phase))),
    begin: (stats) =>
      Effect.addFinalizer(() =>
        Effect.gen(function* () {
          phase = "draining"
          began = yield* Clock.currentTimeMillis
          inUse = (yield* stats).inUse
        })
      ),
    cut: (count) => {
      cut += count
    }
  }
})
