/**
 * A pool of things that are lent one at a time. Waiting is first come, first served, bounded and interruptible; what
 * comes back unusable is thrown away in the background and counts until it is really gone.
 */
import type { ConnectionStats } from "@underlay/core/connection/Connection"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"

export interface PoolOptions<A> {
  readonly kind: string
  readonly name: string
  readonly max: number
  readonly acquireTimeout: Duration.Duration
  readonly idleTimeout: Duration.Duration
  readonly maxLifetime: Duration.Duration
  /** How long the release of the pool waits for what is lent out. */
  readonly drainTimeout: Duration.Duration
  /**
   * Makes one and hands it to `made` at the moment it exists. When it fails or is interrupted before, it leaves nothing
   * behind.
   */
  readonly make: (made: (resource: A) => void) => Effect.Effect<void, ConnectionError>
  /** Whether it may be lent again. */
  readonly isUsable: (resource: A) => boolean
  /** Calls back when it is gone by itself, so that an idle one is forgotten at once. */
  readonly onGone: (resource: A, gone: () => void) => void
  /** Ends one, in bounded time. */
  readonly destroy: (resource: A) => Effect.Effect<void>
}

export interface Pool<A> {
  readonly acquire: Effect.Effect<A, ConnectionError, Scope.Scope>
  readonly stats: Effect.Effect<ConnectionStats>
}

interface Slot<A> {
  readonly resource: A
  readonly madeAt: number
  idleSince: number
}

type Grant<A> =
  | { readonly _tag: "slot"; readonly slot: Slot<A> }
  | { readonly _tag: "make" }
  | { readonly _tag: "closed" }

type Restore = <B, E, R>(effect: Effect.Effect<B, E, R>) => Effect.Effect<B, E, R>

interface Waiter<A> {
  grant: Grant<A> | undefined
  resume: (grant: Grant<A>) => void
}

export const make = Effect.fnUntraced(function* <A>(options: PoolOptions<A>) {
  // Plain state: it changes only in synchronous steps, and this is on the path of every statement.
  const idle: Array<Slot<A>> = []
  const lent = new Set<Slot<A>>()
  const waiters: Array<Waiter<A>> = []
  const retiring = new Set<Deferred.Deferred<void>>()
  const maxLifetime = Duration.toMillis(options.maxLifetime)
  const idleTimeout = Duration.toMillis(options.idleTimeout)
  let total = 0
  let closed = false
  let reaping = false
  let drained: Deferred.Deferred<void> | undefined

  const run = yield* FiberSet.makeRuntime<never, void, never>()

  const error = (reason: "Closed" | "Timeout", description: string) =>
    new ConnectionError({ reason, kind: options.kind, connection: options.name, method: "acquire", description })

  const gone = Effect.suspend(() => error("Closed", "it is released already"))

  const give = (grant: Grant<A>): boolean => {
    const waiter = waiters.shift()
    if (waiter === undefined) return false
    waiter.grant = grant
    waiter.resume(grant)
    return true
  }

  // One place has become free: the first in the queue may make one for it.
  const freed = (): void => {
    total--
    if (!closed && total < options.max && waiters.length > 0) {
      total++
      give({ _tag: "make" })
    }
  }

  const retire = (slot: Slot<A>): void => {
    const done = Deferred.unsafeMake<void>(FiberId.none)
    retiring.add(done)
    run(
      options.destroy(slot.resource).pipe(
        Effect.ensuring(
          Effect.suspend(() => {
            retiring.delete(done)
            freed()
            return Deferred.succeed(done, undefined)
          })
        ),
        Effect.uninterruptible
      )
    )
  }

  const reap: Effect.Effect<void> = Effect.suspend(() => {
    const oldest = idle[0]
    if (oldest === undefined || closed) {
      reaping = false
      return Effect.void
    }
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const left = oldest.idleSince + idleTimeout - now
      if (left > 0) return Effect.zipRight(Effect.sleep(Duration.millis(left)), reap)
      if (idle[0] === oldest) {
        idle.shift()
        retire(oldest)
      }
      return reap
    })
  })

  const putBack = (slot: Slot<A>, now: number): void => {
    if (closed || now - slot.madeAt >= maxLifetime || !options.isUsable(slot.resource)) {
      retire(slot)
      return
    }
    if (waiters.length > 0) {
      lent.add(slot)
      give({ _tag: "slot", slot })
      return
    }
    slot.idleSince = now
    idle.push(slot)
    if (!reaping && Duration.isFinite(options.idleTimeout)) {
      reaping = true
      run(reap)
    }
  }

  const release = (slot: Slot<A>): Effect.Effect<void> =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      // If the pool was closed meanwhile it has taken back by itself what it did not want to wait for.
      if (!lent.delete(slot)) return
      putBack(slot, now)
      if (closed && lent.size === 0 && drained !== undefined) Deferred.unsafeDone(drained, Exit.void)
    })

  const fresh = (restore: Restore): Effect.Effect<Slot<A>, ConnectionError> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      let slot: Slot<A> | undefined
      const made = (resource: A): void => {
        slot = { resource, madeAt: now, idleSince: now }
        lent.add(slot)
      }
      return Effect.flatMap(Effect.exit(restore(options.make(made))), (exit) => {
        if (slot === undefined) {
          freed()
          return Exit.isSuccess(exit) ? Effect.dieMessage("the pool was given nothing") : Effect.failCause(exit.cause)
        }
        const { resource } = slot
        const owned = slot
        options.onGone(resource, () => {
          const at = idle.indexOf(owned)
          if (at < 0) return
          idle.splice(at, 1)
          retire(owned)
        })
        if (closed) {
          // The pool was released while this one was made, and nobody else will end it.
          lent.delete(owned)
          return Effect.zipRight(Effect.ensuring(options.destroy(resource), Effect.sync(freed)), gone)
        }
        if (Exit.isSuccess(exit)) return Effect.succeed(owned)
        // It was made, and the one who asked for it was interrupted in that moment: it goes to the next.
        return Effect.zipRight(release(owned), Effect.failCause(exit.cause))
      })
    })

  // What was granted to one who no longer wants it goes to the next.
  const refuse = (grant: Grant<A>): Effect.Effect<void> =>
    grant._tag === "slot" ? release(grant.slot) : Effect.sync(() => (grant._tag === "make" ? freed() : undefined))

  const wait = (restore: Restore) =>
    Effect.suspend(() => {
      const waiter: Waiter<A> = { grant: undefined, resume: () => {} }
      const granted = Effect.async<Grant<A>>((resume) => {
        waiter.resume = (grant) => resume(Effect.succeed(grant))
        waiters.push(waiter)
      })
      return restore(
        Effect.timeoutFail(granted, {
          duration: options.acquireTimeout,
          onTimeout: () =>
            error(
              "Timeout",
              `all ${options.max} are in use and none came free within ${Duration.format(options.acquireTimeout)}`
            )
        })
      ).pipe(
        Effect.onExit((exit) => {
          if (Exit.isSuccess(exit)) return Effect.void
          const at = waiters.indexOf(waiter)
          if (at >= 0) waiters.splice(at, 1)
          return waiter.grant === undefined ? Effect.void : refuse(waiter.grant)
        })
      )
    })

  const take = (restore: Restore) =>
    Effect.suspend((): Effect.Effect<Slot<A>, ConnectionError> => {
      if (closed) return gone
      for (let slot = idle.pop(); slot !== undefined; slot = idle.pop()) {
        if (options.isUsable(slot.resource)) {
          lent.add(slot)
          return Effect.succeed(slot)
        }
        retire(slot)
      }
      if (total < options.max) {
        total++
        return fresh(restore)
      }
      return Effect.flatMap(wait(restore), (grant) =>
        grant._tag === "slot" ? Effect.succeed(grant.slot) : grant._tag === "make" ? fresh(restore) : gone
      )
    })

  yield* Effect.addFinalizer(
    Effect.fnUntraced(function* () {
      closed = true
      while (give({ _tag: "closed" })) {
        // everybody in the queue is told
      }
      for (let slot = idle.pop(); slot !== undefined; slot = idle.pop()) retire(slot)
      if (lent.size > 0) {
        drained = yield* Deferred.make<void>()
        yield* Effect.interruptible(Effect.timeoutOption(Deferred.await(drained), options.drainTimeout))
        for (const slot of lent) retire(slot)
        lent.clear()
      }
      yield* Effect.forEach([...retiring], Deferred.await, { concurrency: "unbounded", discard: true })
    })
  )

  const pool: Pool<A> = {
    // The caller's interruptibility is kept while it waits and while one is made for it, even where the release of what
    // it gets has to be certain.
    acquire: Effect.uninterruptibleMask((restore) =>
      Effect.map(
        Effect.acquireRelease(take(restore), (slot) => release(slot)),
        (slot) => slot.resource
      )
    ),
    stats: Effect.sync(() => ({ total, idle: idle.length, inUse: lent.size, waiting: waiters.length }))
  }
  return pool
})
