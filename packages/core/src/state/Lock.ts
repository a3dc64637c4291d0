/**
 * Locks that several processes share: exclusive, read and write, counting; fair where asked. Every holder has a fencing
 * token, its lock is renewed while it works, and its work is interrupted when the lock is lost. A port of the internal
 * plane: no span, no log line and no metric per operation.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Scope from "effect/Scope"
import * as Guarded from "../internal/lock/guarded.ts"
import * as Memory from "../internal/lock/memory.ts"
import {
  type Attempt,
  type Backend,
  FencingToken,
  type Guard,
  type Lease,
  LockError,
  type LockOptions,
  type Options,
  type Request,
  type Service
} from "../internal/lock/model.ts"
import * as Rooms from "../internal/lock/rooms.ts"
import * as Watchdog from "../internal/lock/watchdog.ts"
import * as Monotonic from "../internal/monotonic.ts"
import * as Ttl from "../internal/ttl.ts"

export * from "../internal/lock/model.ts"

/**
 * The locks of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class Lock extends Context.Tag("@underlay/core/Lock")<Lock, Service>() {}

/**
 * Builds the port on a backend: checks arguments, waits, renews, watches, interrupts. Fails with `InvalidOptions` on
 * options that cannot be. When the scope closes, whatever is still held counts as lost.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (backend: Backend, options: Options = {}): Effect.Effect<Service, LockError, Scope.Scope> =>
  Effect.gen(function* () {
    const defaultTtl = yield* millisOf("make", "ttl", options.ttl ?? "10 seconds")
    const defaultWait = yield* waitOf("make", options.wait ?? "5 seconds")
    const every = yield* millisOf("make", "watch", options.watch ?? "50 millis")
    const clock = yield* Effect.clock
    const run = yield* FiberSet.makeRuntime<never>()
    const now = Monotonic.millis(clock)
    const nextOwner = owners()

    const rooms = Rooms.make({ backend, run })
    const watchdog = Watchdog.make({ backend, clock, now, run, every })
    yield* Effect.addFinalizer(() => Effect.sync(watchdog.close))

    /**
     * Takes a request back in the background, until it is known that nothing of it is left or it has expired by itself.
     * Once more after that: what was sent before on a connection that is lost can still be on its way.
     */
    const abandonLater = (hold: Hold): void => {
      const until = now() + hold.ttl
      const attempt = (pause: number, times: number): Effect.Effect<void> =>
        Effect.flatMap(Effect.exit(backend.abandon(hold)), (exit) => {
          const left = Exit.isSuccess(exit) ? times - 1 : times
          if (left === 0 || now() + pause >= until) return Effect.void
          return Effect.zipRight(clock.sleep(Duration.millis(pause)), attempt(Math.min(pause * 2, 1_000), left))
        })
      run(attempt(100, 2))
    }

    /** One attempt: undefined when the lock is had, else in how many milliseconds it is free at the latest. */
    const attempt = (hold: Hold, patience: number): Effect.Effect<number | undefined, LockError> => {
      // reckoned from before it is sent: the store's own reckoning begins later, so it ends later
      const sentAt = now()
      if (patience > 0) hold.wasQueued = true
      return Effect.flatMap(backend.acquire(hold, patience), (result) => judged(hold, result, sentAt))
    }

    const judged = (hold: Hold, result: Attempt, sentAt: number): Effect.Effect<number | undefined, LockError> => {
      if (result._tag === "Refused") return Effect.succeed(result.retryAfter)
      if (watchdog.grant(hold, result.token, sentAt)) return granted
      // the answer took so long that the lock may be over: nobody may believe in it
      return Effect.as(Effect.ignore(backend.abandon(hold)), 0)
    }

    const notAcquired = (hold: Hold): LockError =>
      new LockError({
        reason: "NotAcquired",
        method: hold.method,
        description: hold.wait === 0 ? "somebody else has the lock" : `somebody else had the lock for ${hold.wait} ms`,
        outcome: "not-done"
      })

    /** What follows a first attempt that did not have the lock at once. */
    const obtain = (
      hold: Hold,
      first: Attempt,
      sentAt: number,
      flags: RuntimeFlags.RuntimeFlags
    ): Effect.Effect<void, LockError> =>
      Effect.flatMap(judged(hold, first, sentAt), (left) => {
        if (left === undefined) return Effect.void
        return hold.wait === 0 ? Effect.fail(notAcquired(hold)) : queue(hold, flags)
      })

    /** The waiting: in the room of the lock, where one is woken, and looking again now and then all the same. */
    const queue = (hold: Hold, flags: RuntimeFlags.RuntimeFlags): Effect.Effect<void, LockError> => {
      const restore = RuntimeFlags.interruptible(flags) ? Effect.interruptible : Effect.uninterruptible
      const until = now() + hold.wait
      const waiter = rooms.enter(hold)
      const look = (pause: number): Effect.Effect<void, LockError> => {
        waiter.begin()
        return Effect.flatMap(attempt(hold, patience), (left) => {
          if (left === undefined) return Effect.void
          const remaining = until - now()
          if (remaining <= 0) return Effect.fail(notAcquired(hold))
          return Effect.flatMap(Random.nextRange(0.75, 1.25), (factor) => {
            const poll = waiter.isHeard() ? heardPoll : pause * factor
            const time = Math.min(poll, Math.max(left, shortestPoll), remaining)
            return Effect.flatMap(restore(waiter.sleep(clock.sleep(Duration.millis(Math.ceil(time))))), () =>
              look(Math.min(pause * 1.5, longestPoll))
            )
          })
        })
      }
      return Effect.ensuring(
        Effect.suspend(() => look(shortestPoll)),
        Effect.sync(() => waiter.leave())
      )
    }

    /** After a failure: nothing may stay behind. */
    const tidy = (hold: Hold, cause: Cause.Cause<LockError>): Effect.Effect<void> => {
      const failure = Cause.failureOption(cause)
      if (Option.isSome(failure)) {
        const { outcome, reason } = failure.value
        if (reason !== "NotAcquired") {
          // the store is away or slow: it is told when it is back, and the caller does not wait for that
          if (hold.wasQueued || outcome === "unknown") abandonLater(hold)
          return Effect.void
        }
        if (!hold.wasQueued) return Effect.void
      }
      return Effect.catchAll(backend.abandon(hold), () => Effect.sync(() => abandonLater(hold)))
    }

    /** Ends a hold and says whether it was held to the end. */
    const end = (hold: Hold): Effect.Effect<boolean> => {
      const held = watchdog.end(hold)
      if (held === undefined) return Effect.succeed(false)
      return Effect.match(backend.release(hold), {
        // the key was gone or another's: it was lost, whether or not anybody had noticed
        onSuccess: (freed) => held && freed,
        onFailure: () => {
          abandonLater(hold)
          return held
        }
      })
    }

    /**
     * Takes the lock, and goes on where nothing can interrupt between having it and `use`. `flags` are those of the region
     * around it. Attempts are not interrupted: what is sent is sent, and only who has heard the answer knows what there is
     * to give back. They take as long as the store's own timeout at most.
     */
    const taking = <A, E, R>(
      method: string,
      plan: Either.Either<Plan, LockError>,
      use: (hold: Hold, flags: RuntimeFlags.RuntimeFlags) => Effect.Effect<A, E, R>
    ): Effect.Effect<A, E | LockError, R> => {
      if (Either.isLeft(plan)) return Effect.fail(plan.left)
      return Effect.withFiberRuntime<A, E | LockError, R>((_, { runtimeFlags }) => {
        const hold = new Hold(plan.right, nextOwner(), method, control)
        const onFailure = (cause: Cause.Cause<LockError>) => Effect.zipRight(tidy(hold, cause), Effect.failCause(cause))
        const sentAt = now()
        return Effect.uninterruptible(
          Effect.matchCauseEffect(backend.acquire(hold, 0), {
            onFailure,
            onSuccess: (first) =>
              // nearly always so, and worth a step less
              first._tag === "Granted" && watchdog.grant(hold, first.token, sentAt)
                ? use(hold, runtimeFlags)
                : Effect.matchCauseEffect(obtain(hold, first, sentAt, runtimeFlags), {
                    onFailure,
                    onSuccess: () => use(hold, runtimeFlags)
                  })
          })
        )
      })
    }

    const control: HoldControl = {
      isHeld: watchdog.isHeld,
      onLost: watchdog.onLost,
      end: (hold) => Effect.suspend(() => end(hold))
    }

    const guard =
      (method: string, plan: Either.Either<Plan, LockError>): Guard =>
      <A, E, R>(body: Effect.Effect<A, E, R>) =>
        taking(method, plan, (hold, flags) =>
          Guarded.run<A, E, R, Exclude<R, FencingToken>, LockError>(flags, body, {
            provide: (context) => Context.add(context, FencingToken, hold) as Context.Context<R>,
            onLost: (interrupt) => {
              if (hold.state === "lost") interrupt()
              else hold.listener = interrupt
            },
            end: () => end(hold),
            lost: () => lostOf(hold.method)
          })
        )

    const scoped = (
      method: string,
      plan: Either.Either<Plan, LockError>
    ): Effect.Effect<Lease, LockError, Scope.Scope> =>
      taking(method, plan, (hold) =>
        Effect.flatMap(Effect.scope, (scope) =>
          Effect.as(Scope.addFinalizer(scope, Effect.uninterruptible(Effect.suspend(() => end(hold)))), hold)
        )
      )

    const plan = (
      method: string,
      kind: Request["kind"],
      key: string,
      asked: LockOptions | undefined,
      permits: number
    ): Either.Either<Plan, LockError> => {
      const problem = keyProblem(key)
      if (problem !== undefined) return Either.left(invalid(method, problem))
      if (!(Number.isSafeInteger(permits) && permits >= 1)) {
        return Either.left(invalid(method, "permits must be a whole number, at least 1"))
      }
      const ttl = asked?.ttl === undefined ? Either.right(defaultTtl) : millisOf(method, "ttl", asked.ttl)
      if (Either.isLeft(ttl)) return Either.left(ttl.left)
      const wait = asked?.wait === undefined ? Either.right(defaultWait) : waitOf(method, asked.wait)
      if (Either.isLeft(wait)) return Either.left(wait.left)
      return Either.right({ kind, key, ttl: ttl.right, wait: wait.right, fair: asked?.fair === true, permits })
    }

    return {
      withLock: (key, asked) => guard("withLock", plan("withLock", "exclusive", key, asked, 1)),
      withWriteLock: (key, asked) => guard("withWriteLock", plan("withWriteLock", "exclusive", key, asked, 1)),
      withReadLock: (key, asked) => guard("withReadLock", plan("withReadLock", "shared", key, asked, 1)),
      withPermit: (key, asked) => guard("withPermit", plan("withPermit", "permit", key, asked, asked.permits)),
      acquire: (key, asked) => scoped("acquire", plan("acquire", "exclusive", key, asked, 1)),
      acquireRead: (key, asked) => scoped("acquireRead", plan("acquireRead", "shared", key, asked, 1)),
      acquirePermit: (key, asked) => scoped("acquirePermit", plan("acquirePermit", "permit", key, asked, asked.permits))
    }
  })

/**
 * Locks within this process, by `Clock`: the same behaviour as the shared ones, for one process.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: Options = {}): Layer.Layer<Lock, LockError> =>
  Layer.scoped(
    Lock,
    Effect.flatMap(Effect.clock, (clock) => make(Memory.make(clock), options))
  )

/**
 * Makes the guard of a resource in this process: it runs an effect unless one with a later fencing token was run before
 * (`Stale`). A resource elsewhere checks for itself: a table by a column, Redis by `RedisLock.fencedSet`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeFence: Effect.Effect<
  <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LockError, R | FencingToken>
> = Effect.sync(() => {
  let latest = 0n
  return <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.flatMap(FencingToken, ({ token }): Effect.Effect<A, E | LockError, R> => {
      if (token < latest) {
        return Effect.fail(
          new LockError({
            reason: "Stale",
            method: "fence",
            description: "the resource has seen a later fencing token",
            outcome: "not-done"
          })
        )
      }
      latest = token
      return effect
    })
})

/** What was asked for, checked. */
interface Plan extends Omit<Request, "owner"> {
  /** How long to wait, in milliseconds. */
  readonly wait: number
}

const granted = Effect.succeed(undefined)

/** How long one who waits is remembered after it was last heard of. */
const patience = 3_000

/** How often one looks again, in milliseconds: where messages come, and where none do. */
const heardPoll = 1_000
const shortestPoll = 10
const longestPoll = 200

/** What a lease asks of its service. */
interface HoldControl {
  readonly isHeld: (hold: Watchdog.Hold) => boolean
  readonly onLost: (hold: Watchdog.Hold, callback: () => void) => () => void
  readonly end: (hold: Hold) => Effect.Effect<boolean>
}

/** One asking; and once it is granted, the lease. One object for all that is known of it: every lock makes one. */
class Hold implements Watchdog.Hold, Lease {
  readonly kind: Request["kind"]
  readonly key: string
  readonly owner: string
  readonly ttl: number
  readonly fair: boolean
  readonly permits: number
  readonly wait: number
  readonly method: string
  token = 0n
  state: Watchdog.State = "asked"
  since = 0
  deadline = 0
  renewAt = 0
  checkAt = 0
  isBusy = false
  wasQueued = false
  listener: (() => void) | undefined = undefined
  listeners: Set<() => void> | undefined = undefined
  readonly #control: HoldControl

  constructor(plan: Plan, owner: string, method: string, control: HoldControl) {
    this.kind = plan.kind
    this.key = plan.key
    this.owner = owner
    this.ttl = plan.ttl
    this.fair = plan.fair
    this.permits = plan.permits
    this.wait = plan.wait
    this.method = method
    this.#control = control
  }

  get isHeld(): Effect.Effect<boolean> {
    return Effect.sync(() => this.#control.isHeld(this))
  }

  get lost(): Effect.Effect<never, LockError> {
    return Effect.async((resume) => {
      const forget = this.#control.onLost(this, () => resume(Effect.fail(lostOf(this.method))))
      return Effect.sync(forget)
    })
  }

  get release(): Effect.Effect<boolean> {
    return Effect.uninterruptible(this.#control.end(this))
  }
}

const lostOf = (method: string): LockError =>
  new LockError({ reason: "Lost", method, description: "the lock was lost while it was held", outcome: "unknown" })

/** Names of askings that nobody else has: a random one for this service, and a number. */
const owners = (): (() => string) => {
  const name = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(15))))
  let count = 0
  return () => `${name}:${(count++).toString(36)}`
}

const invalid = (method: string, description: string): LockError =>
  new LockError({ reason: "InvalidOptions", method, description, outcome: "not-done" })

const millisOf = (
  method: string,
  name: "ttl" | "watch",
  input: Duration.DurationInput
): Either.Either<number, LockError> =>
  Either.mapLeft(Ttl.millis(input), (problem) =>
    invalid(method, name === "ttl" ? problem : problem.replace("time to live", "time between two looks"))
  )

const waitOf = (method: string, input: Duration.DurationInput | "forever"): Either.Either<number, LockError> => {
  if (input === "forever") return Either.right(Number.POSITIVE_INFINITY)
  const decoded = Duration.decodeUnknown(input)
  const millis = Option.isNone(decoded) ? Number.NaN : Duration.toMillis(decoded.value)
  return millis >= 0 ? Either.right(millis) : Either.left(invalid(method, "the time to wait must be a duration"))
}

const forbidden = /[\p{Cc}\p{Surrogate}{}]/u

const keyProblem = (key: string): string | undefined => {
  if (key.length === 0) return "a key cannot be empty"
  if (key.length > 512) return "a key cannot be longer than 512 characters"
  // braces would move a lock's parts to another slot of a cluster
  return forbidden.test(key) ? "a key must be well-formed Unicode without control characters, { and }" : undefined
}
