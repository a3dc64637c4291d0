/**
 * A pool of things that are lent one at a time. Waiting is first come, first served, bounded and interruptible; what
 * comes back unusable is thrown away in the background and counts until it is really gone. They are made in fibers of the
 * pool, so that one who gives up waiting wastes nothing, and all limits hold where the caller cannot be interrupted too.
 */
import type { ConnectionStats, DrainReport, State } from "@underlay/core/connection/Connection"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"

export interface PoolOptions<A> {
  readonly kind: string
  readonly name: string
  readonly max: number
  readonly acquireTimeout: Duration.Duration
  readonly idleTimeout: Duration.Duration
  readonly maxLifetime: Duration.Duration
  /** After this, one that is being made is no longer what a new caller relies on: another is begun where there is room. */
  readonly makePatience: Duration.Duration
  /** How long the release of the pool waits for what is lent out. */
  readonly drainTimeout: Duration.Duration
  /**
   * Makes one and hands it to `made` at the moment it exists. When it fails or is interrupted before, it leaves nothing
   * behind. It ends in bounded time.
   */
  readonly make: (made: (resource: A) => void) => Effect.Effect<void, ConnectionError>
  /** Whether it may be lent again. */
  readonly isUsable: (resource: A) => boolean
  /** Calls back when it is gone by itself, so that an idle one is forgotten at once. */
  readonly onGone: (resource: A, gone: () => void) => void
  /** Ends one, in bounded time. */
  readonly destroy: (resource: A) => Effect.Effect<void>
  /** Whether it was given up because nothing came from the other side: what holds for others too, most likely. */
  readonly isSilent?: ((resource: A) => boolean) | undefined
  /** Asks the other side, in bounded time. One that gets no answer is not usable after that. */
  readonly check?: ((resource: A) => Effect.Effect<unknown, unknown>) | undefined
}

/** One that is lent. */
export interface Lease<out A> {
  readonly resource: A
  /** Gives it back, once. */
  readonly release: () => void
}

export interface Pool<out A> {
  readonly acquire: Effect.Effect<A, ConnectionError, Scope.Scope>
  /**
   * Asks for one and is told once, maybe at once. What it gives back withdraws the request: one that was granted already
   * is for the caller to release.
   */
  readonly request: (settle: (granted: Lease<A> | ConnectionError) => void) => () => void
  readonly stats: Effect.Effect<ConnectionStats>
  readonly state: Effect.Effect<State>
  readonly drained: Effect.Effect<DrainReport>
  /** Releases it, once, as the end of its scope does: for those who have several. */
  readonly close: Effect.Effect<void>
  /**
   * Has those that are idle prove that the other side is still there, before they are lent again: for who was left
   * without an answer.
   */
  readonly suspect: () => void
  /** How many could be lent at once, without waiting for one that is in use: for those who choose between pools. */
  readonly load: () => number
}

interface Slot<A> extends Lease<A> {
  readonly madeAt: number
  idleSince: number
}

interface Waiter<A> {
  readonly since: number
  readonly settle: (granted: Lease<A> | ConnectionError) => void
}

interface Attempt {
  readonly since: number
  /** A caller waits for it, as opposed to: its caller got another one, or waits no longer. */
  wanted: boolean
  /** It is being ended, as one that takes too long and is wanted by nobody. */
  given: boolean
  fiber: Fiber.RuntimeFiber<void> | undefined
}

export const make = Effect.fnUntraced(function* <A>(options: PoolOptions<A>) {
  // Plain state: it changes only in synchronous steps, and this is on the path of every statement.
  const idle: Array<Slot<A>> = []
  const checking = new Set<Slot<A>>()
  const lent = new Set<Slot<A>>()
  const waiters: Array<Waiter<A>> = []
  const retiring = new Set<Deferred.Deferred<void>>()
  const maxLifetime = Duration.toMillis(options.maxLifetime)
  const idleTimeout = Duration.toMillis(options.idleTimeout)
  const acquireTimeout = Duration.toMillis(options.acquireTimeout)
  const patience = Duration.toMillis(options.makePatience)
  const acquired = { count: 0, totalMs: 0, maxMs: 0 }
  const released = yield* Deferred.make<DrainReport>()
  const clock = yield* Effect.clock
  let total = 0
  // When each began that is being made, the oldest first.
  const making: Array<Attempt> = []
  let phase: "open" | "draining" | "closed" = "open"
  let last: "none" | "made" | "failed" = "none"
  let reaping = false
  let expiring = false
  let drained: Deferred.Deferred<void> | undefined

  const run = yield* FiberSet.makeRuntime<never, void, never>()

  const error = (reason: "Closed" | "Timeout", description: string) =>
    new ConnectionError({
      reason,
      kind: options.kind,
      connection: options.name,
      method: "acquire",
      description,
      sent: false
    })

  const gone = () => error("Closed", "it is released already")

  const failureOf = (cause: Cause.Cause<ConnectionError>): ConnectionError =>
    Option.getOrElse(Cause.failureOption(cause), () =>
      phase === "open"
        ? new ConnectionError({
            reason: "Unknown",
            kind: options.kind,
            connection: options.name,
            method: "connect",
            description: "it could not be made, for a reason that is not known here: `original` says why",
            sent: false,
            cause: Cause.squash(cause)
          })
        : gone()
    )

  const lend = (waiter: Waiter<A>, slot: Slot<A>): void => {
    const took = clock.unsafeCurrentTimeMillis() - waiter.since
    acquired.count++
    acquired.totalMs += took
    if (took > acquired.maxMs) acquired.maxMs = took
    lent.add(slot)
    waiter.settle(slot)
  }

  const begin = (): void => {
    const attempt: Attempt = {
      since: clock.unsafeCurrentTimeMillis(),
      wanted: true,
      given: false,
      fiber: undefined
    }
    total++
    making.push(attempt)
    attempt.fiber = run(one(attempt))
  }

  // What takes long and is wanted by nobody, when there is reason to believe that nobody is on the other side.
  const giveUp = (before: number): void => {
    if (making.length === 0) return
    const slow = Math.min(before, clock.unsafeCurrentTimeMillis() - patience)
    for (const attempt of making) {
      if (attempt.wanted || attempt.since > slow) continue
      attempt.given = true
      attempt.fiber?.unsafeInterruptAsFork(FiberId.none)
    }
  }

  const wanted = (): number => {
    let count = 0
    for (const attempt of making) if (attempt.wanted) count++
    return count
  }

  // As many are being made as there are callers who wait for one, where there is room. What others have given up waiting
  // for may never come to an end, so that after a while it is only relied on where there is no room for another.
  const fill = (): void => {
    // What is made or refused at once changes both.
    while (phase === "open" && wanted() < waiters.length) {
      const full = total >= options.max
      const slow = making.length === 0 ? 0 : clock.unsafeCurrentTimeMillis() - patience
      const spare = making.find((attempt) => !attempt.wanted && (full || attempt.since > slow))
      if (spare !== undefined) spare.wanted = true
      else if (full) return
      else begin()
    }
  }

  // One has stopped waiting, and with that maybe one that is being made is wanted by nobody: the slowest.
  const left = (): void => {
    if (making.length === 0 || wanted() <= waiters.length) return
    const attempt = making.find(({ wanted }) => wanted)
    if (attempt !== undefined) attempt.wanted = false
  }

  const retire = (slot: Slot<A>): void => {
    const done = Deferred.unsafeMake<void>(FiberId.none)
    retiring.add(done)
    run(
      options.destroy(slot.resource).pipe(
        Effect.ensuring(
          Effect.suspend(() => {
            retiring.delete(done)
            total--
            if (options.isSilent?.(slot.resource) === true) suspect()
            fill()
            return Deferred.succeed(done, undefined)
          })
        ),
        Effect.uninterruptible
      )
    )
  }

  const reap: Effect.Effect<void> = Effect.suspend(() => {
    const oldest = idle[0]
    if (oldest === undefined || phase !== "open") {
      reaping = false
      return Effect.void
    }
    const left = oldest.idleSince + idleTimeout - clock.unsafeCurrentTimeMillis()
    if (left > 0) return Effect.zipRight(Effect.sleep(Duration.millis(left)), reap)
    idle.shift()
    retire(oldest)
    return reap
  })

  const late = () =>
    error(
      "Timeout",
      `all ${options.max} are in use and none came free within ${Duration.format(options.acquireTimeout)}`
    )

  // All wait equally long, so that the first in the queue is the first whose time is over. Those for whom one is being
  // made are told by that, which takes as long as it may.
  const expire: Effect.Effect<void> = Effect.suspend(() => {
    const first = wanted()
    const oldest = waiters[first]
    if (oldest === undefined) {
      expiring = false
      return Effect.void
    }
    const left = oldest.since + acquireTimeout - clock.unsafeCurrentTimeMillis()
    if (left > 0) return Effect.zipRight(Effect.sleep(Duration.millis(left)), expire)
    waiters.splice(first, 1)
    oldest.settle(late())
    return expire
  })

  const limit = (): void => {
    if (expiring || waiters.length <= wanted() || !Number.isFinite(acquireTimeout)) return
    expiring = true
    run(expire)
  }

  const putBack = (slot: Slot<A>): void => {
    const now = clock.unsafeCurrentTimeMillis()
    if (phase !== "open" || now - slot.madeAt >= maxLifetime || !options.isUsable(slot.resource)) {
      retire(slot)
      return
    }
    const waiter = waiters.shift()
    if (waiter !== undefined) {
      left()
      lend(waiter, slot)
      return
    }
    slot.idleSince = now
    idle.push(slot)
    if (!reaping && Number.isFinite(idleTimeout)) {
      reaping = true
      run(reap)
    }
  }

  const suspect = (): void => {
    const { check } = options
    if (check === undefined || phase !== "open") return
    giveUp(Number.POSITIVE_INFINITY)
    for (const slot of idle.splice(0)) {
      checking.add(slot)
      run(
        Effect.map(Effect.exit(check(slot.resource)), () => {
          if (checking.delete(slot)) putBack(slot)
        })
      )
    }
  }

  const slotOf = (resource: A): Slot<A> => {
    const now = clock.unsafeCurrentTimeMillis()
    const slot: Slot<A> = {
      resource,
      madeAt: now,
      idleSince: now,
      release: () => {
        // If the pool was closed meanwhile it has taken back by itself what it did not want to wait for.
        if (!lent.delete(slot)) return
        putBack(slot)
        if (phase !== "open" && lent.size === 0 && drained !== undefined) Deferred.unsafeDone(drained, Exit.void)
      }
    }
    options.onGone(resource, () => {
      const at = idle.indexOf(slot)
      if (at < 0) return
      idle.splice(at, 1)
      retire(slot)
    })
    return slot
  }

  const one = (attempt: Attempt): Effect.Effect<void> =>
    Effect.suspend(() => {
      let slot: Slot<A> | undefined
      const made = (resource: A): void => {
        slot = slotOf(resource)
      }
      return Effect.flatMap(Effect.exit(Effect.interruptible(Effect.suspend(() => options.make(made)))), (exit) =>
        Effect.suspend(() => {
          making.splice(making.indexOf(attempt), 1)
          if (slot !== undefined) {
            last = "made"
            if (phase === "open") {
              // Those that were begun before it should be there by now.
              giveUp(attempt.since - 1)
              putBack(slot)
              limit()
              return Effect.void
            }
            // The pool was released while this one was made, and nobody else will end it.
            return Effect.ensuring(
              options.destroy(slot.resource),
              Effect.sync(() => {
                total--
              })
            )
          }
          total--
          if (attempt.given) {
            fill()
            return Effect.void
          }
          last = "failed"
          // Else it was begun for one who has left.
          if (wanted() < waiters.length) {
            waiters.shift()?.settle(Exit.isFailure(exit) ? failureOf(exit.cause) : gone())
          }
          fill()
          limit()
          return Effect.void
        })
      )
    }).pipe(Effect.uninterruptible)

  const nothing = (): void => {}

  const request = (settle: Waiter<A>["settle"]): (() => void) => {
    if (phase !== "open") {
      settle(gone())
      return nothing
    }
    for (let slot = idle.pop(); slot !== undefined; slot = idle.pop()) {
      if (options.isUsable(slot.resource)) {
        acquired.count++
        lent.add(slot)
        settle(slot)
        return nothing
      }
      retire(slot)
    }
    const waiter: Waiter<A> = { since: clock.unsafeCurrentTimeMillis(), settle }
    waiters.push(waiter)
    fill()
    limit()
    return () => {
      const at = waiters.indexOf(waiter)
      if (at < 0) return
      waiters.splice(at, 1)
      left()
    }
  }

  const close: Effect.Effect<void> = Effect.suspend(() =>
    phase === "open" ? closing() : Effect.asVoid(Deferred.await(released))
  )
  const closing = Effect.fnUntraced(function* () {
    const began = clock.unsafeCurrentTimeMillis()
    phase = "draining"
    for (let waiter = waiters.shift(); waiter !== undefined; waiter = waiters.shift()) waiter.settle(gone())
    for (let slot = idle.pop(); slot !== undefined; slot = idle.pop()) retire(slot)
    for (const slot of checking) retire(slot)
    checking.clear()
    const inUse = lent.size
    let cut = 0
    if (inUse > 0) {
      drained = yield* Deferred.make<void>()
      yield* Effect.interruptible(Effect.timeoutOption(Deferred.await(drained), options.drainTimeout))
      cut = lent.size
      for (const slot of lent) retire(slot)
      lent.clear()
    }
    yield* Effect.forEach([...retiring], (done) => Deferred.await(done), {
      concurrency: "unbounded",
      discard: true
    })
    phase = "closed"
    const tookMs = clock.unsafeCurrentTimeMillis() - began
    const report = { kind: options.kind, name: options.name, inUse, finished: inUse - cut, cut, tookMs }
    yield* Deferred.succeed(released, report)
  }, Effect.uninterruptible)
  yield* Effect.addFinalizer(() => close)

  const state = (): State => {
    if (phase !== "open") return phase
    if (idle.length + lent.size > 0) return "ready"
    if (last === "failed") return "down"
    return last === "made" ? "ready" : making.length > 0 ? "connecting" : "idle"
  }

  const pool: Pool<A> = {
    acquire: acquireBy(request),
    request,
    stats: Effect.sync(() => ({
      total,
      idle: idle.length + checking.size,
      inUse: lent.size,
      waiting: waiters.length,
      acquire: { ...acquired }
    })),
    state: Effect.sync(state),
    drained: Deferred.await(released),
    close,
    suspect,
    load: () => lent.size + waiters.length
  }
  return pool
})

/** Makes interruptible again what was so outside. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/**
 * One for him who asks, to be released by hand: to be run where nothing interrupts, with what makes the waiting
 * interruptible again.
 */
export const lease = <A>(request: Pool<A>["request"], restore: Restore): Effect.Effect<Lease<A>, ConnectionError> =>
  Effect.suspend((): Effect.Effect<Lease<A>, ConnectionError> => {
    let granted: Lease<A> | ConnectionError | undefined
    let listener: ((effect: Effect.Effect<Lease<A>, ConnectionError>) => void) | undefined
    const withdraw = request((value) => {
      granted = value
      listener?.(settled(value))
    })
    if (granted !== undefined) return settled(granted)
    return Effect.matchCauseEffect(
      restore(
        Effect.async<Lease<A>, ConnectionError>((resume) => {
          if (granted === undefined) listener = resume
          else resume(settled(granted))
        })
      ),
      {
        onSuccess: Effect.succeed,
        onFailure: (cause) => {
          withdraw()
          // It was granted in the moment in which the caller was interrupted: it goes to the next.
          if (granted !== undefined && !(granted instanceof ConnectionError)) granted.release()
          return Effect.failCause(cause)
        }
      }
    )
  })

/**
 * One for as long as a scope is open. The caller's interruptibility is kept while it waits, even where the release of
 * what it gets has to be certain.
 */
export const acquireBy = <A>(request: Pool<A>["request"]): Pool<A>["acquire"] =>
  Effect.uninterruptibleMask((restore) =>
    // Not by `acquireRelease`, which compares all references of the fiber twice: a release in one step needs none.
    Effect.flatMap(Effect.scope, (scope) =>
      Effect.flatMap(lease(request, restore), (lease) =>
        Effect.as(Scope.addFinalizer(scope, Effect.sync(lease.release)), lease.resource)
      )
    )
  )

const settled = <A>(granted: Lease<A> | ConnectionError): Effect.Effect<Lease<A>, ConnectionError> =>
  granted instanceof ConnectionError ? Effect.fail(granted) : Effect.succeed(granted)

/**
 * Asks again and again until there is a connection, ever more rarely: for what is to be connected in the background.
 */
export const untilReady = <A>(pool: Pool<A>): Effect.Effect<void> => {
  const attempt = (delay: number): Effect.Effect<void> =>
    Effect.flatMap(Effect.option(Effect.scoped(pool.acquire)), (made) =>
      Option.isSome(made)
        ? Effect.void
        : Effect.zipRight(Effect.sleep(Duration.millis(delay)), attempt(Math.min(30_000, delay * 2)))
    )
  return attempt(100)
}
