/**
 * One consumer of a group. It shares the partitions of the topic with the other consumers, each under a lease; it takes
 * over what was handed out before it reads on; and it runs handlers, one at a time for each ordering key.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { withoutCallReferences } from "../callReferences.ts"
import * as Codec from "./codec.ts"
import type {
  Backend,
  DeadReason,
  EventBusError,
  Leased,
  Member,
  Message,
  StoredEntry,
  SubscribeOptions,
  Subscription,
  Topic
} from "./model.ts"
import * as Topics from "./topics.ts"

/** The options of a subscription, checked. Times are in milliseconds. */
export interface Checked {
  readonly group: string
  readonly consumer: string
  readonly concurrency: number
  readonly prefetch: number
  readonly maxUnsettled: number
  readonly maxDeliveries: number
  readonly retryDelay: (deliveries: number) => number
  readonly claimAfter: number
  readonly pollInterval: number
}

export const check = (options: SubscribeOptions): Either.Either<Checked, string> => {
  const counts = {
    concurrency: options.concurrency ?? 16,
    prefetch: options.prefetch ?? 100,
    maxUnsettled: options.maxUnsettled ?? 1_000,
    maxDeliveries: options.maxDeliveries ?? 5
  }
  for (const [name, value] of Object.entries(counts)) {
    if (!Topics.isCount(value)) return Either.left(`${name} must be a positive whole number`)
  }
  if (counts.prefetch > 1_000) return Either.left("prefetch cannot be more than 1000")
  const consumer = options.consumer ?? Codec.randomId()
  const problem = Topics.nameProblem(consumer, 200)
  if (problem !== undefined) return Either.left(`the name of the consumer ${problem}`)
  const claimAfter = Topics.millis(options.claimAfter ?? "30 seconds")
  const pollInterval = Topics.millis(options.pollInterval ?? "5 seconds")
  if (claimAfter === undefined || pollInterval === undefined) {
    return Either.left("claimAfter and pollInterval must be positive durations of at most 24 days")
  }
  const delay = options.retryDelay
  if (delay !== undefined && typeof delay !== "function" && Option.isNone(Duration.decodeUnknown(delay))) {
    return Either.left("retryDelay must be a duration, or a function that gives one")
  }
  return Either.right({
    group: options.group,
    consumer,
    ...counts,
    claimAfter,
    pollInterval,
    retryDelay: (deliveries) => {
      if (delay === undefined) return Math.min(30_000, 1_000 * 2 ** Math.min(deliveries - 1, 20))
      const decoded = Duration.decodeUnknown(typeof delay === "function" ? delay(deliveries) : delay)
      // what is no duration must not become a busy loop
      return Option.isNone(decoded) ? 1_000 : Math.min(2_147_483_647, Duration.toMillis(decoded.value))
    }
  })
}

interface Item {
  readonly entry: StoredEntry
  /** How often it was handed out; this delivery is in it from its start on. */
  deliveries: number
  /** It was read, and no handler has had it. */
  fresh: boolean
  /** The store may have been told of a delivery that no handler has had. */
  beginning: boolean
  /** Its handler runs. */
  running: boolean
}

/** What happens to a delivery. `stopped`: it is no longer this consumer's. */
type Outcome = { readonly cause: Cause.Cause<unknown> } | "done" | "stopped"

/** A partition that this consumer holds. Plain mutable state: all of it changes between two steps of a fiber. */
interface Owned {
  readonly partition: number
  readonly scope: Scope.CloseableScope
  /** Until when the lease is ours for certain, in nanoseconds of the monotonic clock. */
  until: bigint
  draining: boolean
  /** What was taken and is not acknowledged, by position. */
  readonly known: Map<string, Item>
  /** What waits for each ordering key; the first is being worked on. */
  readonly lanes: Map<string, Array<Item>>
  /** Positions that are done and not acknowledged yet. */
  acks: Array<string>
  readonly toAcknowledge: Effect.Latch
  readonly news: Effect.Latch
  readonly room: Effect.Latch
  readonly idle: Effect.Latch
  /** The last position that was read, or where the subscription began. */
  cursor: string
  /** The newest position that was ever taken, or "0-0". */
  newest: string
  /** What a read may have taken is not known: its answer is awaited, or was lost. */
  unsure: boolean
  running: number
}

const nanos = (millis: number): bigint => BigInt(Math.ceil(millis)) * 1_000_000n

export const subscribe = <A, I, E, R>(
  backend: Backend,
  topic: Topic<A, I>,
  options: Checked,
  starts: ReadonlyArray<string>,
  handler: (message: Message<A>) => Effect.Effect<unknown, E, R>
): Effect.Effect<Subscription, EventBusError, R | Scope.Scope> =>
  // a subscription outlives the call that began it: its handlers have nothing of that call
  Effect.mapInputContext(
    inOwnScope(
      Effect.gen(function* () {
        const { claimAfter, consumer, group, maxDeliveries, maxUnsettled, pollInterval, prefetch } = options
        const { settings } = topic
        const member: Member = { group, consumer, token: `${consumer} ${Codec.randomId()}` }
        /** After a call of the store that failed. */
        const pause = Math.min(pollInterval, 500)
        const beatEvery = Math.max(1, Math.floor(claimAfter / 10))
        const permits = Effect.unsafeMakeSemaphore(options.concurrency)
        const owned = new Map<number, Owned>()
        /** Partitions whose handlers are still being ended. */
        const ending = new Map<number, Effect.Latch>()
        const keeper = Effect.unsafeMakeLatch(false)
        const counts = { handled: 0, failed: 0, deadLettered: 0, claimed: 0, lost: 0, storeErrors: 0 }
        let lastStoreError: EventBusError | undefined

        const noted = (error: EventBusError): void => {
          counts.storeErrors++
          lastStoreError = error
        }

        /** What the store must be told sooner or later: again until it is. */
        const persist = <B>(effect: Effect.Effect<B, EventBusError>): Effect.Effect<B> =>
          Effect.catchAll(effect, (error) => {
            noted(error)
            return Effect.zipRight(Effect.sleep(pause), persist(effect))
          })

        const isOurs = (one: Owned): Effect.Effect<boolean> =>
          Effect.map(
            Clock.currentTimeNanos,
            (now) => !one.draining && owned.get(one.partition) === one && now < one.until
          )

        const settled = (one: Owned, position: string): void => {
          one.known.delete(position)
          one.room.unsafeOpen()
        }

        // ── one event ──────────────────────────────────────────────────────────────────────────────────────────────

        const acknowledge = (one: Owned, item: Item): void => {
          one.acks.push(item.entry.position)
          one.toAcknowledge.unsafeOpen()
        }

        const bury = (one: Owned, item: Item, reason: DeadReason, description: string): Effect.Effect<void> =>
          Effect.map(
            persist(
              backend.bury(settings, group, one.partition, {
                entry: item.entry,
                deliveries: item.deliveries,
                reason,
                description: description.slice(0, 1_000)
              })
            ),
            () => {
              counts.deadLettered++
              settled(one, item.entry.position)
            }
          )

        /** The store or the clock says that the lease is over. */
        const lost = (one: Owned): Effect.Effect<void> =>
          Effect.suspend(() => {
            if (owned.get(one.partition) !== one) return Effect.void
            counts.lost++
            return Effect.asVoid(Effect.forkDaemon(end(one, false)))
          }).pipe(Effect.uninterruptible)

        /** Whether a handler may have the event now. What was handed out before is counted first, so that a crash counts. */
        const begin = (one: Owned, item: Item): Effect.Effect<boolean> =>
          Effect.flatMap(isOurs(one), (ours) => {
            // the work on its key ends here: what comes later must not make the partition ours again without it
            if (!ours) return Effect.as(one.draining ? Effect.void : lost(one), false)
            if (item.fresh) {
              item.fresh = false
              item.deliveries = 1
              return Effect.succeed(true)
            }
            item.beginning = true
            return Effect.flatMap(
              persist(backend.begin(settings, member, one.partition, item.entry.position, item.deliveries + 1)),
              (result) => {
                if (result === "lost") return Effect.as(lost(one), false)
                // waiting for the store can have taken long
                return Effect.flatMap(isOurs(one), (stillOurs) => {
                  if (!stillOurs) return Effect.as(one.draining ? Effect.void : lost(one), false)
                  item.beginning = false
                  item.deliveries++
                  return Effect.succeed(true)
                })
              }
            )
          })

        const deliver = (one: Owned, item: Item, event: A): Effect.Effect<Outcome, never, R> =>
          permits.withPermits(1)(
            Effect.flatMap(begin(one, item), (begun) => {
              if (!begun) return Effect.succeed<Outcome>("stopped")
              item.running = true
              one.running++
              return Effect.onExit(
                Effect.map(
                  Effect.exit(
                    Effect.suspend(() =>
                      handler(Codec.message(topic.name, one.partition, item.entry, item.deliveries, event))
                    )
                  ),
                  (exit): Outcome => {
                    if (Exit.isFailure(exit)) {
                      counts.failed++
                      return { cause: exit.cause }
                    }
                    counts.handled++
                    acknowledge(one, item)
                    return "done"
                  }
                ),
                (exit) =>
                  Effect.sync(() => {
                    one.running--
                    // an interrupted delivery does not count: it is given back as one that runs
                    if (Exit.isSuccess(exit)) item.running = false
                    if (one.running === 0) one.idle.unsafeOpen()
                  })
              )
            })
          )

        /** Hands an event out until it is done with. False: it is no longer this consumer's. */
        const work = (one: Owned, item: Item, event: A): Effect.Effect<boolean, never, R> => {
          // what a crashed consumer had taken counts once, begun or not: it is handed out once more at least
          if (!item.fresh && item.deliveries >= Math.max(2, maxDeliveries)) {
            return Effect.as(bury(one, item, "Abandoned", "no consumer came back from it"), true)
          }
          return Effect.flatMap(deliver(one, item, event), (outcome) => {
            if (outcome === "stopped") return Effect.succeed(false)
            if (outcome === "done") return Effect.succeed(true)
            if (item.deliveries >= maxDeliveries) {
              return Effect.as(bury(one, item, "Failed", described(outcome.cause)), true)
            }
            return Effect.zipRight(
              Effect.flatMap(
                // a policy that throws must not end the work on its key
                Effect.orElseSucceed(
                  Effect.try(() => options.retryDelay(item.deliveries)),
                  () => 1_000
                ),
                (millis) => Effect.sleep(millis)
              ),
              Effect.suspend(() => work(one, item, event))
            )
          })
        }

        const settle = (one: Owned, item: Item): Effect.Effect<boolean, never, R> => {
          if (item.entry.only !== undefined && item.entry.only !== group) {
            return Effect.sync(() => {
              acknowledge(one, item)
              return true
            })
          }
          return Effect.matchEffect(Codec.decode(topic.schema, item.entry), {
            onFailure: (problem) =>
              Effect.as(bury(one, item, "Undecodable", `it is not of the topic's schema: ${problem}`), true),
            onSuccess: (event) => work(one, item, event)
          })
        }

        // ── one partition ──────────────────────────────────────────────────────────────────────────────────────────

        /** All that waits for one ordering key, one after another. */
        const lane = (one: Owned, key: string, items: Array<Item>): Effect.Effect<void, never, R> =>
          Effect.suspend(() => {
            const item = items[0]
            if (item === undefined || one.draining) {
              one.lanes.delete(key)
              return Effect.void
            }
            return Effect.flatMap(settle(one, item), (goOn) => {
              if (!goOn) return Effect.void
              items.shift()
              return lane(one, key, items)
            })
          })

        type Run = (effect: Effect.Effect<void, never, R>) => void

        const take = (one: Owned, run: Run, item: Item): void => {
          const { key, position } = item.entry
          if (one.known.has(position)) return
          one.known.set(position, item)
          // no key: a lane of its own. A key cannot begin with a control character and a position
          const name = key === undefined ? `\u0000${position}` : `\u0001${key}`
          const items = one.lanes.get(name)
          if (items !== undefined) {
            items.push(item)
            return
          }
          const begun = [item]
          one.lanes.set(name, begun)
          run(lane(one, name, begun))
        }

        /** Room for so many more events, as soon as there is some. */
        const roomOf = (one: Owned): Effect.Effect<number> =>
          Effect.suspend(() => {
            // nothing more is taken of what is about to be given away
            if (one.draining) return Effect.never
            const room = Math.min(prefetch, maxUnsettled - one.known.size)
            if (room > 0) return Effect.succeed(room)
            one.room.unsafeClose()
            return Effect.zipRight(one.room.await, roomOf(one))
          })

        const leased = <B>(
          one: Owned,
          result: Leased<B>,
          then: (value: B) => Effect.Effect<void>
        ): Effect.Effect<void> => {
          // the fibers of a partition that is lost are about to be interrupted
          if (result === "lost") return Effect.zipRight(lost(one), Effect.never)
          if (result === "no-group") {
            // it was removed, or everything was: what comes from now on must not be missed. Where others read, they know
            // how far they were
            const again = Array.from({ length: settings.partitions }, (_, partition) =>
              partition === one.partition ? one.cursor : owned.get(partition)?.cursor
            )
            return persist(backend.open(settings, group, again))
          }
          return then(result.value)
        }

        /** What is read comes in order. */
        const reached = (one: Owned, entry: StoredEntry | undefined): void => {
          if (entry !== undefined && Topics.compare(entry.position, one.newest) > 0) one.newest = entry.position
        }

        /** What was handed out before, to whomever: it comes before all that was not. */
        const adopt = (one: Owned, run: Run, from: string): Effect.Effect<void> =>
          Effect.flatMap(roomOf(one), (room) =>
            Effect.flatMap(persist(backend.adopt(settings, member, one.partition, from, room)), (result) =>
              leased(one, result, ({ entries, next }) => {
                for (const { deliveries, entry } of entries) {
                  if (one.known.has(entry.position)) continue
                  counts.claimed++
                  // taken by a read of ours whose answer was lost: no handler has had it
                  const fresh = one.unsure && deliveries === 1 && Topics.compare(entry.position, one.newest) > 0
                  take(one, run, { entry, deliveries, fresh, beginning: false, running: false })
                }
                reached(one, entries.at(-1)?.entry)
                if (next !== undefined) return adopt(one, run, next)
                one.unsure = false
                return Effect.void
              })
            )
          )

        const read = (one: Owned, run: Run): Effect.Effect<void> =>
          Effect.flatMap(roomOf(one), (room) => {
            // closed before the look: what is announced from now on opens it
            one.news.unsafeClose()
            one.unsure = true
            return Effect.matchEffect(backend.read(settings, member, one.partition, room), {
              onFailure: (error) => {
                noted(error)
                // what this read may have taken is found among what was handed out
                return Effect.zipRight(Effect.sleep(pause), adopt(one, run, "0-0"))
              },
              onSuccess: (result) => {
                one.unsure = false
                return leased(one, result, (entries) => {
                  if (entries.length === 0) return one.news.await
                  for (const entry of entries) {
                    one.cursor = entry.position
                    take(one, run, { entry, deliveries: 0, fresh: true, beginning: false, running: false })
                  }
                  reached(one, entries.at(-1))
                  return Effect.void
                })
              }
            })
          })

        /** Tells the store what is done, all that has gathered since the last time at once. */
        const acknowledging = (one: Owned): Effect.Effect<never> =>
          Effect.forever(
            Effect.zipRight(
              one.toAcknowledge.await,
              Effect.suspend(() => {
                one.toAcknowledge.unsafeClose()
                const positions = one.acks.slice(0, 1_000)
                if (positions.length === 0) return Effect.void
                return Effect.matchEffect(backend.acknowledge(settings, group, one.partition, positions), {
                  onFailure: (error) => {
                    noted(error)
                    one.toAcknowledge.unsafeOpen()
                    return Effect.sleep(pause)
                  },
                  onSuccess: () => {
                    one.acks = one.acks.slice(positions.length)
                    for (const position of positions) settled(one, position)
                    if (one.acks.length > 0) one.toAcknowledge.unsafeOpen()
                    return Effect.void
                  }
                })
              })
            )
          )

        const start = (partition: number, until: bigint): Effect.Effect<void, never, R> =>
          Effect.gen(function* () {
            const scope = yield* Scope.make()
            const one: Owned = {
              partition,
              scope,
              until,
              draining: false,
              known: new Map(),
              lanes: new Map(),
              acks: [],
              toAcknowledge: Effect.unsafeMakeLatch(false),
              news: Effect.unsafeMakeLatch(false),
              room: Effect.unsafeMakeLatch(false),
              idle: Effect.unsafeMakeLatch(false),
              cursor: begins[partition] ?? "0-0",
              newest: "0-0",
              unsure: false,
              running: 0
            }
            owned.set(partition, one)
            const fork = yield* Scope.extend(FiberSet.makeRuntime<R, void, never>(), scope)
            // this may be run where nothing is interrupted; the work on a partition is
            const run: Run = (effect) => {
              fork(Effect.interruptible(effect))
            }
            run(acknowledging(one))
            run(Effect.zipRight(adopt(one, run, "0-0"), Effect.forever(read(one, run))))
          })

        /** What a partition's end must tell the store. Without the lease, that is what is done alone. */
        const handOver = (one: Owned, giveBack: boolean): Effect.Effect<void, EventBusError> => {
          if (!giveBack) return backend.acknowledge(settings, group, one.partition, one.acks)
          const done = new Set(one.acks)
          const returned: Array<{ readonly position: string; readonly deliveries: number }> = []
          for (const [position, item] of one.known) {
            if (done.has(position)) continue
            if (item.fresh) returned.push({ position, deliveries: 0 })
            else if (item.beginning) returned.push({ position, deliveries: item.deliveries })
            else if (item.running) returned.push({ position, deliveries: item.deliveries - 1 })
          }
          const unseen = one.unsure ? one.newest : undefined
          return backend.release(settings, member, one.partition, one.acks, returned, unseen)
        }

        /** Ends the work on a partition: handlers are interrupted, and what they had is given back. */
        const end = (one: Owned, giveBack: boolean): Effect.Effect<void> => {
          const { partition } = one
          if (owned.get(partition) !== one) return ending.get(partition)?.await ?? Effect.void
          // from here on nothing of it is handed out, and nothing of it is said to be ours
          owned.delete(partition)
          const ended = Effect.unsafeMakeLatch(false)
          ending.set(partition, ended)
          return Scope.close(one.scope, Exit.void).pipe(
            Effect.zipRight(Effect.suspend(() => handOver(one, giveBack))),
            // the lease runs out by itself, and what is not acknowledged is handed out again
            Effect.catchAll((error) => Effect.sync(() => noted(error))),
            Effect.ensuring(
              Effect.sync(() => {
                ending.delete(partition)
                ended.unsafeOpen()
                // it may be this consumer's again
                keeper.unsafeOpen()
              })
            ),
            Effect.uninterruptible
          )
        }

        /** Lets the handlers that run come to their end, for a while, and gives the partition to the others. */
        const drain = (one: Owned): Effect.Effect<void> =>
          Effect.suspend(() => {
            one.draining = true
            one.idle.unsafeClose()
            const quiet = one.running === 0 ? Effect.void : one.idle.await
            return Effect.zipRight(
              Effect.raceFirst(quiet, Effect.sleep(claimAfter)),
              Effect.uninterruptible(Effect.suspend(() => end(one, true)))
            )
          })

        // ── all partitions ─────────────────────────────────────────────────────────────────────────────────────────

        /** Whoever was silent for too long must not believe that anything is still theirs. */
        const expire = Effect.flatMap(Clock.currentTimeNanos, (now) =>
          Effect.forEach(
            [...owned.values()].filter((one) => now >= one.until),
            lost,
            { discard: true }
          )
        )

        /** How many partitions are this consumer's to read. */
        const quotaOf = (members: ReadonlyArray<string>): number => {
          const place = [...members].sort().indexOf(member.token)
          if (place < 0) return 0
          const rest = settings.partitions % members.length
          return Math.floor(settings.partitions / members.length) + (place < rest ? 1 : 0)
        }

        const tick: Effect.Effect<void, EventBusError, R> = Effect.gen(function* () {
          yield* expire
          const since = yield* Clock.currentTimeNanos
          // what is asked may be left unanswered; what is taken may not
          const {
            free,
            kept,
            lost: gone,
            members
          } = yield* Effect.interruptible(backend.beat(settings, member, claimAfter, [...owned.keys()]))
          for (const partition of kept) {
            const one = owned.get(partition)
            // by the store's clock the lease began later than this
            if (one !== undefined) one.until = since + nanos(claimAfter)
          }
          for (const partition of gone) {
            const one = owned.get(partition)
            if (one !== undefined) yield* lost(one)
          }
          const quota = quotaOf(members)
          const steady = [...owned.values()].filter((one) => !one.draining)
          for (const one of steady.slice(quota)) yield* Effect.forkIn(Effect.interruptible(drain(one)), scope)
          const wanted = free.filter((partition) => !owned.has(partition) && !ending.has(partition))
          yield* claim(wanted, quota)
        })

        /** Takes partitions that nobody holds, up to the quota. Others take from the same list at the same time. */
        const claim = (wanted: ReadonlyArray<number>, quota: number): Effect.Effect<void, EventBusError, R> => {
          const missing = quota - owned.size
          if (missing <= 0 || wanted.length === 0) return Effect.void
          return Effect.zipRight(
            Effect.forEach(
              wanted.slice(0, missing),
              (partition) =>
                Effect.flatMap(Clock.currentTimeNanos, (asked) =>
                  Effect.flatMap(backend.acquire(settings, member, claimAfter, partition), (taken) =>
                    taken ? start(partition, asked + nanos(claimAfter)) : Effect.void
                  )
                ),
              { concurrency: "unbounded", discard: true }
            ),
            Effect.suspend(() => claim(wanted.slice(missing), quota))
          )
        }

        const scope = yield* Effect.scope
        // a group that has to be made again must not begin at another end
        const begins = starts.includes("$") ? withEnds(starts, yield* backend.ends(settings)) : starts
        yield* backend.open(settings, group, begins)
        yield* Effect.addFinalizer(() =>
          Effect.all(
            [
              Effect.suspend(() =>
                Effect.zipRight(
                  Effect.forEach([...owned.values()], (one) => end(one, true), { concurrency: "unbounded" }),
                  Effect.forEach([...ending.values()], (ended) => ended.await)
                )
              ),
              Effect.ignore(backend.leave(settings, member))
            ],
            { concurrency: 2, discard: true }
          )
        )
        yield* backend.bell(settings, (what) => {
          if (what === "members" || what === "all") keeper.unsafeOpen()
          if (what === "all") for (const one of owned.values()) one.news.unsafeOpen()
          else if (what !== "members") owned.get(what)?.news.unsafeOpen()
        })
        yield* Effect.uninterruptible(tick)

        yield* Effect.forkScoped(
          Effect.forever(
            Effect.zipRight(
              Effect.raceFirst(keeper.await, Effect.sleep(beatEvery)),
              Effect.suspend(() => {
                keeper.unsafeClose()
                return Effect.catchAll(Effect.uninterruptible(tick), (error) => Effect.sync(() => noted(error)))
              })
            )
          )
        )
        yield* Effect.forkScoped(
          Effect.forever(
            Effect.flatMap(Clock.currentTimeNanos, (now) => {
              let next = now + nanos(beatEvery)
              for (const { until } of owned.values()) if (until < next) next = until
              return Effect.zipRight(Effect.sleep(Math.max(1, Number(next - now) / 1_000_000)), expire)
            })
          )
        )
        yield* Effect.forkScoped(
          Effect.forever(
            Effect.zipRight(
              Effect.sleep(pollInterval),
              Effect.sync(() => {
                for (const one of owned.values()) one.news.unsafeOpen()
              })
            )
          )
        )

        return {
          group,
          consumer,
          stats: Effect.sync(() => {
            let running = 0
            let unsettled = 0
            for (const one of owned.values()) {
              running += one.running
              unsettled += one.known.size
            }
            return {
              ...counts,
              lastStoreError: Option.fromNullable(lastStoreError),
              running,
              unsettled,
              partitions: [...owned.keys()].sort((one, other) => one - other)
            }
          })
        }
      })
    ),
    (context: Context.Context<R | Scope.Scope>) =>
      withoutCallReferences(context as Context.Context<never>) as Context.Context<R | Scope.Scope>
  )

/** What fails half way leaves nothing behind until the scope closes. */
const inOwnScope = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.scope, (parent) =>
      Effect.flatMap(Scope.fork(parent, ExecutionStrategy.sequential), (scope) =>
        Effect.onError(restore(Scope.extend(effect, scope)), (cause) => Scope.close(scope, Exit.failCause(cause)))
      )
    )
  )

const withEnds = (starts: ReadonlyArray<string>, ends: ReadonlyArray<string>): ReadonlyArray<string> =>
  starts.map((start, partition) => (start === "$" ? (ends[partition] ?? "0-0") : start))

/** What a handler failed with, in one line. An error that cannot be shown has failed all the same. */
const described = (cause: Cause.Cause<unknown>): string =>
  Either.getOrElse(
    Either.try(() => {
      const error = Cause.squash(cause)
      if (error instanceof Error) return `${error.name}: ${error.message}`
      if (typeof error === "string") return error
      return typeof error === "object" && error !== null && "_tag" in error && typeof error._tag === "string"
        ? error._tag
        : "the handler failed"
    }),
    () => "the handler failed"
  )
