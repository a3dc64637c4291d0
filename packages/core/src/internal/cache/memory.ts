/**
 * The cache backend inside this process.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { ExpiringMap } from "../expiringMap.ts"
import type { Backend, Found, Heard, Looked, Origin } from "./model.ts"

export const make = (capacity: number): Effect.Effect<Backend, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const entries = new ExpiringMap<string>(capacity)
    const leases = new ExpiringMap<string>(capacity)
    const stamps = new ExpiringMap<string>(capacity)
    let madeStamps = 0
    const listeners = new Map<string, Set<(heard: Heard) => void>>()
    const watchers = new Map<string, Set<() => void>>()

    const atNow = <A>(f: (now: number) => A): Effect.Effect<A> => Effect.map(Clock.currentTimeMillis, f)

    const tell = (
      by: Origin,
      changed: { keys?: ReadonlyArray<string>; tags?: ReadonlyArray<string>; cleared?: boolean }
    ): void => {
      const all = listeners.get(by.namespace)
      if (all === undefined) return
      const heard: Heard = { _tag: "Changed", from: by.from, keys: [], tags: [], cleared: false, ...changed }
      for (const listener of [...all]) listener(heard)
    }

    const endLease = (key: string, now: number): void => {
      if (!leases.delete(key, now)) return
      for (const wake of [...(watchers.get(key) ?? [])]) wake()
    }

    const look = (key: string, timed: boolean, now: number): Found => {
      const text = entries.get(key, now)
      if (text === undefined) return undefined
      return { text, left: timed ? (entries.expiryOf(key, now) ?? now) - now : undefined }
    }

    const take = (key: string, token: string, ttl: number, now: number): Looked => {
      const until = leases.expiryOf(key, now)
      if (until !== undefined) return { _tag: "Held", left: until - now }
      leases.set(key, token, now + ttl, now)
      return { _tag: "Taken" }
    }

    const write = (key: string, text: string, ttl: number, by: Origin, now: number): void => {
      entries.set(key, text, now + ttl, now)
      endLease(key, now)
      tell(by, { keys: [key] })
    }

    const registered = <A>(map: Map<string, Set<A>>, key: string, one: A): Effect.Effect<void, never, Scope.Scope> =>
      Effect.asVoid(
        Effect.acquireRelease(
          Effect.sync(() => {
            const all = map.get(key) ?? new Set<A>()
            map.set(key, all)
            all.add(one)
          }),
          () =>
            Effect.sync(() => {
              const all = map.get(key)
              all?.delete(one)
              if (all?.size === 0) map.delete(key)
            })
        )
      )

    return {
      scope,
      get: (key, timed) => atNow((now) => look(key, timed, now)),
      getMany: (keys, timed) => atNow((now) => keys.map((key) => look(key, timed, now))),
      set: ({ key, text, ttl }, by) => atNow((now) => write(key, text, ttl, by, now)),
      setMany: (many, by) =>
        atNow((now) => {
          for (const { key, text, ttl } of many) write(key, text, ttl, by, now)
        }),
      delete: (keys, by) =>
        atNow((now) => {
          let count = 0
          for (const key of keys) {
            if (entries.delete(key, now)) count++
            endLease(key, now)
          }
          tell(by, { keys })
          return count
        }),
      discard: (keys) =>
        atNow((now) => {
          for (const key of keys) entries.delete(key, now)
        }),
      clear: (by) =>
        atNow((now) => {
          let count = 0
          for (const key of [...leases.keys()]) if (key.startsWith(by.prefix)) endLease(key, now)
          for (const key of [...entries.keys()]) if (key.startsWith(by.prefix) && entries.delete(key, now)) count++
          tell(by, { cleared: true })
          return count
        }),
      leases: {
        getOrTake: (key, token, ttl) =>
          atNow((now): Looked => {
            const found = look(key, true, now)
            return found === undefined ? take(key, token, ttl, now) : { _tag: "Found", found }
          }),
        take: (keys, token, ttl) => atNow((now) => keys.map((key) => take(key, token, ttl, now))),
        fill: (many, token, by) =>
          atNow((now) =>
            many.map(({ key, text, ttl }) => {
              if (leases.get(key, now) !== token) return false
              write(key, text, ttl, by, now)
              return true
            })
          ),
        release: (keys, token) =>
          atNow((now) => {
            for (const key of keys) if (leases.get(key, now) === token) endLease(key, now)
          }),
        watch: (key, wake) => registered(watchers, key, wake)
      },
      stamps: {
        get: (keys) => atNow((now) => keys.map((key) => stamps.get(key, now))),
        ensure: (keys, ttl) =>
          atNow((now) =>
            keys.map((key) => {
              const current = stamps.get(key, now) ?? String(madeStamps++)
              stamps.set(key, current, Math.max(stamps.expiryOf(key, now) ?? 0, now + ttl), now)
              return current
            })
          ),
        drop: (keys, tags, by) =>
          atNow((now) => {
            for (const key of keys) stamps.delete(key, now)
            tell(by, tags === undefined ? { cleared: true } : { tags })
          })
      },
      listen: (by, handler) =>
        Effect.tap(registered(listeners, by.namespace, handler), () => Effect.sync(() => handler({ _tag: "Ready" })))
    }
  })
