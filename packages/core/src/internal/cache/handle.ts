/**
 * The handle: reading and writing over the tier in this process and the backend.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Cell, Fill } from "./firstTier.ts"
import { FirstTier } from "./firstTier.ts"
import * as Kernel from "./kernel.ts"
import * as Loading from "./loading.ts"
import * as LoadingMany from "./loadingMany.ts"
import type { Backend, CacheError, CacheHandle, Heard, Options, WriteOptions } from "./model.ts"
import * as Settings from "./settings.ts"

export const make = <A, I>(
  backend: Backend,
  options: Options<A, I>
): Effect.Effect<CacheHandle<A>, CacheError, Scope.Scope> =>
  Effect.map(makeWithClear(backend, options), ({ handle }) => handle)

/** A handle, and `clear` as one that fails where its backend does, whether or not the handle is strict. */
export interface Clearable<A> {
  readonly handle: CacheHandle<A>
  readonly clear: Effect.Effect<number, CacheError>
}

export const makeWithClear = <A, I>(
  backend: Backend,
  options: Options<A, I>
): Effect.Effect<Clearable<A>, CacheError, Scope.Scope> =>
  Effect.gen(function* () {
    const checked = Settings.make(backend, options)
    if (Either.isLeft(checked)) return yield* Kernel.failure("InvalidOptions", "make", checked.left)
    const settings = checked.right
    const tier =
      settings.firstTier === undefined
        ? undefined
        : new FirstTier<A>(settings.firstTier.capacity, settings.firstTier.ttl)
    const kernel = Kernel.make(backend, settings, options, tier)
    const loader = Loading.make(kernel)
    if (tier !== undefined && backend.listen !== undefined) {
      yield* Effect.catchAll(backend.listen(kernel.by(), listener(kernel, tier, loader)), (error) =>
        // what can never be is no backend that fails
        error.reason === "InvalidOptions" ? Effect.fail(error) : kernel.guard(Effect.fail(error), undefined)
      )
    }
    return clearable(kernel, loader)
  })

/** What happens elsewhere, as it is told. Synchronous, so that nothing comes between. */
const listener =
  <A>({ by, counts, settings }: Kernel.Kernel<A>, tier: FirstTier<A>, loader: Loading.Loader<A>) =>
  (heard: Heard): void => {
    if (heard._tag !== "Changed") {
      if (heard._tag === "Lost") counts.flushes++
      tier.setLive(heard._tag === "Ready")
      return
    }
    if (heard.from === by().from) return
    counts.messages++
    if (heard.cleared) {
      tier.flush()
      loader.outdateAll()
    }
    if (heard.tags.length > 0) tier.dropTags(heard.tags)
    for (const full of heard.keys) {
      if (!full.startsWith(settings.prefix)) continue
      const key = full.slice(settings.prefix.length)
      tier.remove(key)
      // with leases, whether what is computed is kept is decided where the entries are; and who does not say who made the
      // change tells of this handle's own too, and of the end of an entry that is why it is being computed
      if (settings.lease === undefined && heard.from !== undefined) loader.outdate(key)
    }
  }

const clearable = <A>(kernel: Kernel.Kernel<A>, loader: Loading.Loader<A>): Clearable<A> => {
  const { accept, acceptMany, backend, counts, guard, prepare, settings, stamp, tier } = kernel
  const { prefix, timed } = settings
  const obtainMany = LoadingMany.make(loader)

  const found = (entry: Kernel.Entry<A> | undefined): Option.Option<A> => {
    if (entry === undefined || entry.left <= 0) {
      counts.misses++
      return Option.none()
    }
    counts.hits++
    if (Option.isNone(entry.value)) counts.negativeHits++
    return entry.value
  }

  /** What the tier in this process has, counted. */
  const near = (key: string, now: number): Cell<A> | undefined => {
    const cell = tier?.get(key, now)
    if (cell === undefined) return undefined
    counts.hits++
    counts.firstTierHits++
    if (Option.isNone(cell.value)) counts.negativeHits++
    return cell
  }

  const far = (key: string): Effect.Effect<Option.Option<A>> =>
    // nothing but what is needed stands between a hit and its caller
    Effect.matchEffect(backend.get(prefix + key, timed), {
      onFailure: (error) => Effect.map(guard(Effect.fail(error), undefined), found),
      onSuccess: (one) => {
        if (one === undefined) return Effect.succeed(found(undefined))
        const parsed = kernel.parse(one)
        return typeof parsed === "object" && parsed.stamps === undefined
          ? Effect.succeed(found(parsed.entry))
          : Effect.map(guard(kernel.settle(key, parsed), undefined), found)
      }
    })

  const get: CacheHandle<A>["get"] = (key) => {
    if (tier === undefined) return Effect.suspend(() => far(key))
    return Effect.clockWith((clock) => {
      const now = clock.unsafeCurrentTimeMillis()
      const cell = near(key, now)
      if (cell !== undefined) return Effect.succeed(cell.value)
      // begun and ended in one step: an interruption between them would strand what was begun
      return Effect.uninterruptibleMask((restore) => {
        const fill = tier.beginRead(key)
        return Effect.onExit(
          restore(
            Effect.map(
              guard(
                Effect.flatMap(backend.get(prefix + key, timed), (one) => accept(key, one)),
                undefined
              ),
              (entry) => {
                if (entry !== undefined) tier.put(key, fill, entry.value, entry.left, entry.took, entry.tags, now)
                return found(entry)
              }
            )
          ),
          () => Effect.sync(() => tier.end(key, fill))
        )
      })
    })
  }

  const getMany: CacheHandle<A>["getMany"] = (keys) =>
    keys.length === 0
      ? Effect.succeed([])
      : Effect.flatMap(Clock.currentTimeMillis, (now) => {
          const values: Array<Option.Option<A>> = []
          const asked: Array<number> = []
          for (const [index, key] of keys.entries()) {
            const cell = near(key, now)
            values.push(cell === undefined ? Option.none() : cell.value)
            if (cell === undefined) asked.push(index)
          }
          if (asked.length === 0) return Effect.succeed(values)
          const names = asked.map((index) => keys[index] ?? "")
          let fills: ReadonlyArray<Fill | undefined> = []
          const read = Effect.map(
            guard(
              Effect.flatMap(
                backend.getMany(
                  names.map((key) => prefix + key),
                  timed
                ),
                (all) => acceptMany(names, all)
              ),
              undefined
            ),
            (entries) => {
              for (const [place, index] of asked.entries()) {
                const entry = entries?.[place]
                if (entry !== undefined) {
                  tier?.put(names[place] ?? "", fills[place], entry.value, entry.left, entry.took, entry.tags, now)
                }
                values[index] = found(entry)
              }
              return values
            }
          )
          if (tier === undefined) return read
          return Effect.uninterruptibleMask((restore) => {
            fills = names.map((key) => tier.beginRead(key))
            return Effect.onExit(restore(read), () =>
              Effect.sync(() => {
                for (const [place, fill] of fills.entries()) tier.end(names[place] ?? "", fill)
              })
            )
          })
        })

  /**
   * Runs a change of these keys: what is being computed for them is outdated, and the tier in this process keeps nothing
   * of them that was read before its end. A change whose outcome is unknown may come true later: it is doubted.
   */
  const changing = <B, C>(
    keys: ReadonlyArray<string>,
    change: Effect.Effect<B, CacheError>,
    otherwise: C,
    written?: (fills: ReadonlyArray<Fill>, now: number) => void
  ): Effect.Effect<B | C> =>
    Effect.uninterruptibleMask((restore) => {
      for (const key of keys) loader.outdate(key)
      if (tier === undefined) return restore(guard(change, otherwise))
      const fills = keys.map((key) => tier.beginWrite(key))
      return guard(
        Effect.onExit(
          restore(
            written === undefined
              ? change
              : Effect.flatMap(change, (result) =>
                  Effect.map(Clock.currentTimeMillis, (now) => {
                    written(fills, now)
                    return result
                  })
                )
          ),
          (exit) =>
            Effect.sync(() => {
              if (exit._tag === "Failure") kernel.doubt()
              for (const [index, key] of keys.entries()) tier.end(key, fills[index])
            })
        ),
        otherwise
      )
    })

  const set: CacheHandle<A>["set"] = (key, value, write) => {
    const kept = Option.some(value)
    let fresh = 0
    return changing(
      [key],
      Effect.flatMap(
        Effect.flatMap(stamp(write, "set"), (stamped) => prepare(key, kept, write, stamped, 0, "set")),
        (prepared) => {
          counts.writes++
          fresh = prepared.fresh
          return backend.set(prepared.entry, kernel.by())
        }
      ),
      undefined,
      ([fill], now) => tier?.put(key, fill, kept, fresh, 0, write?.tags ?? [], now)
    )
  }

  const setMany: CacheHandle<A>["setMany"] = (entries, write) =>
    Effect.suspend(() => {
      const all = [...entries]
      if (all.length === 0) return Effect.void
      const keys = all.map(([key]) => key)
      let fresh: ReadonlyArray<number> = []
      return changing(
        keys,
        Effect.gen(function* () {
          const stamped = yield* stamp(write, "setMany")
          const prepared = yield* Effect.forEach(all, ([key, value]) =>
            prepare(key, Option.some(value), write, stamped, 0, "setMany")
          )
          counts.writes += prepared.length
          fresh = prepared.map((one) => one.fresh)
          yield* backend.setMany(
            prepared.map((one) => one.entry),
            kernel.by()
          )
        }),
        undefined,
        (fills, now) => {
          for (const [index, [key, value]] of all.entries()) {
            tier?.put(key, fills[index], Option.some(value), fresh[index] ?? 0, 0, write?.tags ?? [], now)
          }
        }
      )
    })

  const deleteMany: CacheHandle<A>["deleteMany"] = (keys) =>
    keys.length === 0
      ? Effect.succeed(0)
      : Effect.suspend(() => {
          const names = [...new Set(keys)]
          return counting(
            Effect.suspend(() =>
              backend.delete(
                names.map((key) => prefix + key),
                kernel.by()
              )
            ),
            (change) => changing(names, change, undefined)
          )
        })

  /** A change that counts: where not all could be reached, it is the number of those that could. */
  const counting = (
    change: Effect.Effect<number, CacheError>,
    guarded: (change: Effect.Effect<number, CacheError>) => Effect.Effect<number | undefined>
  ): Effect.Effect<number> =>
    Effect.suspend(() => {
      let deleted = 0
      const noting = Effect.tapError(change, (error) =>
        Effect.sync(() => {
          deleted = error.deleted ?? 0
        })
      )
      return Effect.map(guarded(noting), (count) => count ?? deleted)
    })

  /** A change of more than single keys: whatever the tier in this process reads until its end is not kept. */
  const sweeping = <B>(change: Effect.Effect<B, CacheError>, sweep: () => void): Effect.Effect<B, CacheError> =>
    Effect.uninterruptibleMask((restore) => {
      sweep()
      if (tier === undefined) return restore(change)
      return Effect.onExit(restore(change), (exit) =>
        Effect.sync(() => {
          if (exit._tag === "Failure") kernel.doubt()
          sweep()
        })
      )
    })

  const invalidateTags: CacheHandle<A>["invalidateTags"] = (tags) => {
    const names = [...new Set(tags)]
    if (names.length === 0) return Effect.void
    const keys = names.map((tag) => Settings.tagKey(settings.namespace, tag))
    return guard(
      sweeping(
        Effect.suspend(() =>
          backend.stamps === undefined
            ? Kernel.failure("InvalidOptions", "invalidateTags", "tags need a backend with stamps")
            : backend.stamps.drop(keys, names, kernel.by())
        ),
        () => tier?.dropTags(names)
      ),
      undefined
    )
  }

  const clear = sweeping(
    Effect.suspend(() =>
      settings.generations && backend.stamps !== undefined
        ? Effect.as(backend.stamps.drop([Settings.generationKey(settings.namespace)], undefined, kernel.by()), 0)
        : backend.clear(kernel.by())
    ),
    () => {
      loader.outdateAll()
      tier?.flush()
    }
  )

  const getOrElseOption = <E, R>(
    key: string,
    compute: Loading.Compute<A, E, R>,
    write: WriteOptions | undefined,
    absence: boolean
  ): Effect.Effect<Option.Option<A>, E, R> => {
    if (tier === undefined) return loader.obtain(key, compute, write, absence)
    return Effect.clockWith((clock) => {
      const now = clock.unsafeCurrentTimeMillis()
      const cell = tier.get(key, now)
      if (cell === undefined || (!absence && Option.isNone(cell.value))) {
        return loader.obtain(key, compute, write, absence)
      }
      counts.hits++
      counts.firstTierHits++
      if (Option.isNone(cell.value)) counts.negativeHits++
      if (settings.earlyRefresh === 0) return Effect.succeed(cell.value)
      const left = cell.freshUntil - now
      return Effect.flatMap(loader.isDue(cell.took, left), (due) =>
        due ? Effect.as(loader.refresh(key, compute, write, left), cell.value) : Effect.succeed(cell.value)
      )
    })
  }

  const handle: CacheHandle<A> = {
    namespace: settings.namespace,
    get,
    getMany,
    set,
    setMany,
    delete: (key) => Effect.map(deleteMany([key]), (count) => count > 0),
    deleteMany,
    getOrElse: (key, compute, write) =>
      // a computation that gives something gives something to whoever asks
      Effect.map(getOrElseOption(key, Effect.asSome(compute), write, false), Option.getOrThrow),
    getOrElseOption: (key, compute, write) => getOrElseOption(key, compute, write, true),
    getOrElseMany: (keys, load, write) =>
      keys.length === 0
        ? Effect.succeed([])
        : Effect.flatMap(Clock.currentTimeMillis, (now) => {
            const values = new Map<string, Option.Option<A>>()
            const asked: Array<string> = []
            for (const key of new Set(keys)) {
              const cell = near(key, now)
              if (cell === undefined) asked.push(key)
              else values.set(key, cell.value)
            }
            const all = (more: ReadonlyMap<string, Option.Option<A>>) =>
              keys.map((key) => values.get(key) ?? more.get(key) ?? Option.none())
            return asked.length === 0 ? Effect.succeed(all(values)) : Effect.map(obtainMany(asked, load, write), all)
          }),
    invalidateTags,
    clear: counting(clear, (change) => guard(change, undefined)),
    stats: Effect.sync(() => ({ ...counts, firstTierSize: tier?.size ?? 0 }))
  }
  return {
    handle,
    // counted as any other call that the backend failed
    clear: Effect.tapError(clear, (error) => Effect.sync(() => kernel.count(error)))
  }
}
