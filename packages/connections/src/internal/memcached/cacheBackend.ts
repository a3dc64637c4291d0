/**
 * How caches are kept on memcached. An item holds an entry, the lease of its key, or both, with their exact ends and the
 * generation of the namespace that it was written in; what is of another generation is not there. All that depends on
 * what was there before is done by compare-and-set.
 */
import * as Crypto from "node:crypto"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Cache from "@underlay/core/state/Cache"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import * as Compression from "../cache/compression.ts"
import { failureOf } from "../cache/errors.ts"
import * as Polling from "../cache/polling.ts"
import { expiryOf, latestExpiry, type Raw } from "./client.ts"
import * as Protocol from "./protocol.ts"

/** What an item holds. */
interface Item {
  /** The version, for compare-and-set; `undefined` where there is no item. */
  readonly cas: string | undefined
  readonly entry: { readonly until: number; readonly bytes: Buffer } | undefined
  readonly lease: { readonly token: string; readonly until: number } | undefined
  readonly unreadable: boolean
}

const nothing: Item = { cas: undefined, entry: undefined, lease: undefined, unreadable: false }

/** Generations that nobody asks for are forgotten after a month, which makes misses. In seconds. */
const generationLife = 30 * 24 * 3_600

/** How often it is tried again where others change the same item meanwhile. */
const mostRounds = 20

/**
 * When the server may drop an item. Its seconds begin when they like, so what lives for one of them may end at once: it
 * has one more, and the exact end is the one that is written in the item.
 */
const droppedAt = (millis: number, now: number): number => Math.min(latestExpiry, expiryOf(millis + 1_000, now))

const newStamp = (): string => Crypto.randomBytes(12).toString("base64url")

const namespaceOf = (key: string): string => key.slice(6, key.indexOf(":", 6))

const generationKey = (client: Raw, namespace: string): string => client.keyOf(`cache:~written:${namespace}`)

/** `1|<end of the entry>|<generation>|<token>|<end of the lease>`, and after a line feed the entry. */
const encode = (generation: string, entry: Item["entry"], lease: Item["lease"]): ReadonlyArray<Uint8Array | string> => [
  `1|${entry?.until ?? 0}|${generation}|${lease?.token ?? ""}|${lease?.until ?? 0}\n`,
  ...(entry === undefined ? [] : [entry.bytes])
]

const decode = (value: Buffer, cas: string, generation: string | undefined, now: number): Item => {
  const end = value.indexOf(10)
  const parts = end < 0 ? [] : value.toString("latin1", 0, end).split("|")
  const [version, until, stamp, token = "", leaseUntil] = parts
  const [ends, leaseEnds] = [Number(until), Number(leaseUntil)]
  if (version !== "1" || parts.length !== 5 || !Number.isFinite(ends) || !Number.isFinite(leaseEnds)) {
    return { cas, entry: undefined, lease: undefined, unreadable: true }
  }
  if (generation === undefined || stamp !== generation) return { ...nothing, cas }
  return {
    cas,
    entry: ends > now ? { until: ends, bytes: value.subarray(end + 1) } : undefined,
    lease: token !== "" && leaseEnds > now ? { token, until: leaseEnds } : undefined,
    unreadable: false
  }
}

/** A request that writes an item. `mode` is empty, ` ME` (only where there is none) or ` C<version>`. */
const writing = (key: string, parts: ReadonlyArray<Uint8Array | string>, expiry: number, mode: string) => {
  const size = parts.reduce((sum, part) => sum + (typeof part === "string" ? Buffer.byteLength(part) : part.length), 0)
  return { key, pieces: [`ms ${key} ${size} T${expiry}${mode}\r\n`, ...parts, "\r\n"], size }
}

export const make = (raw: Effect.Effect<Raw, ConnectionError>): Effect.Effect<Cache.Backend, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    /** The generations as they were seen last: a write begins with that, and is done again where it is another. */
    const generations = new Map<string, string>()

    const fails = (method: string) => (error: ConnectionError) => failureOf(method, error)

    /** Requests with their replies; the first that failed is the failure of all. */
    const exchange = (
      client: Raw,
      method: string,
      requests: ReadonlyArray<{ readonly key: string; readonly pieces: ReadonlyArray<string | Uint8Array> }>
    ): Effect.Effect<ReadonlyArray<Protocol.Reply>, Cache.CacheError> =>
      Effect.flatMap(client.exchangeMany(method, requests), (replies) =>
        Effect.forEach(replies, (reply) =>
          Either.isLeft(reply)
            ? Effect.fail(failureOf(method, reply.left))
            : isRefusal(reply.right)
              ? Effect.fail(refusalOf(method, reply.right))
              : Effect.succeed(reply.right)
        )
      )

    const connected = <A>(
      method: string,
      f: (client: Raw, now: number) => Effect.Effect<A, Cache.CacheError>
    ): Effect.Effect<A, Cache.CacheError> =>
      Effect.flatMap(Effect.mapError(raw, fails(method)), (client) =>
        Effect.clockWith((clock) => f(client, clock.unsafeCurrentTimeMillis()))
      )

    /** The generation of a namespace, made if there is none. */
    const generationOf = (client: Raw, method: string, namespace: string): Effect.Effect<string, Cache.CacheError> => {
      const key = generationKey(client, namespace)
      const mine = newStamp()
      return Effect.flatMap(
        exchange(client, method, [
          writing(key, [mine], generationLife, " ME"),
          { key, pieces: [`mg ${key} v T${generationLife}\r\n`] }
        ]),
        ([, found]) => {
          if (found?.code !== "VA") return Effect.fail(rejected(method, "the namespace's generation does not stay"))
          const generation = found.value.toString("latin1")
          generations.set(namespace, generation)
          return Effect.succeed(generation)
        }
      )
    }

    /** The items of keys, with the generations of their namespaces, in one go. */
    const look = (
      client: Raw,
      method: string,
      keys: ReadonlyArray<string>,
      now: number
    ): Effect.Effect<ReadonlyArray<Item>, Cache.CacheError> =>
      Effect.suspend(() => {
        const namespaces = [...new Set(keys.map(namespaceOf))]
        const distinct = [...new Set(keys)]
        const requests = namespaces.map((namespace) => {
          const key = generationKey(client, namespace)
          return { key, pieces: [`mg ${key} v T${generationLife}\r\n`] }
        })
        for (const key of distinct) {
          const hashed = client.keyOf(key)
          requests.push({ key: hashed, pieces: [`mg ${hashed} v c\r\n`] })
        }
        return Effect.map(exchange(client, method, requests), (replies) => {
          const current = new Map<string, string | undefined>()
          for (const [index, namespace] of namespaces.entries()) {
            const reply = replies[index]
            const generation = reply?.code === "VA" ? reply.value.toString("latin1") : undefined
            current.set(namespace, generation)
            if (generation === undefined) generations.delete(namespace)
            else generations.set(namespace, generation)
          }
          const items = new Map<string, Item>()
          for (const [index, key] of distinct.entries()) {
            const reply = replies[namespaces.length + index]
            items.set(
              key,
              reply?.code === "VA"
                ? decode(reply.value, Protocol.flag(reply.flags, "c") ?? "0", current.get(namespaceOf(key)), now)
                : nothing
            )
          }
          return keys.map((key) => items.get(key) ?? nothing)
        })
      })

    const foundOf = (item: Item, now: number): Effect.Effect<Cache.Found> => {
      if (item.unreadable) return Effect.succeed("unreadable")
      const { entry } = item
      return entry === undefined
        ? Effect.succeed(undefined)
        : Effect.map(Compression.decode(entry.bytes), (text) =>
            text === undefined ? "unreadable" : { text, left: entry.until - now }
          )
    }

    /**
     * Plain writes, each with the generation that was seen last; those of a namespace that has another one by now are
     * made again. A value that is too large leaves nothing at its key.
     */
    const write = (
      client: Raw,
      method: string,
      entries: ReadonlyArray<Cache.BackendEntry>,
      now: number,
      rounds = mostRounds
    ): Effect.Effect<void, Cache.CacheError> =>
      Effect.gen(function* () {
        if (entries.length === 0) return
        const namespaces = [...new Set(entries.map(({ key }) => namespaceOf(key)))]
        const used = new Map<string, string>()
        for (const namespace of namespaces) {
          used.set(namespace, generations.get(namespace) ?? (yield* generationOf(client, method, namespace)))
        }
        const requests: Array<{ readonly key: string; readonly pieces: ReadonlyArray<string | Uint8Array> }> =
          namespaces.map((namespace) => {
            const key = generationKey(client, namespace)
            return { key, pieces: [`mg ${key} v T${generationLife}\r\n`] }
          })
        let large = false
        for (const { compressAbove, key, text, ttl } of entries) {
          const bytes = yield* Compression.encode(text, compressAbove)
          const hashed = client.keyOf(key)
          const request = writing(
            hashed,
            encode(used.get(namespaceOf(key)) ?? "", { until: now + ttl, bytes }, undefined),
            droppedAt(ttl, now),
            ""
          )
          if (request.size > client.maxValueBytes) large = true
          requests.push(request.size > client.maxValueBytes ? { key: hashed, pieces: [`md ${hashed}\r\n`] } : request)
        }
        const replies = yield* Effect.map(client.exchangeMany(method, requests), (all) => all)
        let failed: Cache.CacheError | undefined
        const stale = new Set<string>()
        for (const [index, reply] of replies.entries()) {
          if (Either.isLeft(reply)) {
            failed ??= failureOf(method, reply.left)
            continue
          }
          const namespace = namespaces[index]
          if (namespace === undefined) {
            if (isRefusal(reply.right)) failed ??= refusalOf(method, reply.right)
          } else if (reply.right.code !== "VA" || reply.right.value.toString("latin1") !== used.get(namespace)) {
            generations.delete(namespace)
            stale.add(namespace)
          }
        }
        if (failed !== undefined) return yield* failed
        if (stale.size > 0) {
          if (rounds === 0) return yield* rejected(method, "the namespace is cleared all the time")
          yield* write(
            client,
            method,
            entries.filter(({ key }) => stale.has(namespaceOf(key))),
            now,
            rounds - 1
          )
        }
        if (large) return yield* tooLarge(method)
      })

    /**
     * Changes items by what they hold. `change` says what is to be there, `keep` to leave an item as it is; what another
     * changed meanwhile is looked at again. Gives what `change` answered last for each key.
     */
    const update = <A>(
      client: Raw,
      method: string,
      keys: ReadonlyArray<string>,
      now: number,
      change: (item: Item, key: string) => Change<A>
    ): Effect.Effect<ReadonlyArray<A>, Cache.CacheError> =>
      Effect.gen(function* () {
        const answers = new Map<string, A>()
        let left = [...new Set(keys)]
        for (let round = 0; left.length > 0; round++) {
          if (round === mostRounds) return yield* rejected(method, "others change the same keys all the time")
          for (const namespace of new Set(left.map(namespaceOf))) {
            // without one, nothing that is written would count
            if (!generations.has(namespace)) yield* generationOf(client, method, namespace)
          }
          const items = yield* look(client, method, left, now)
          const asked: Array<string> = []
          const again: Array<string> = []
          const requests: Array<{ readonly key: string; readonly pieces: ReadonlyArray<string | Uint8Array> }> = []
          for (const [index, key] of left.entries()) {
            const item = items[index] ?? nothing
            const { answer, put } = change(item, key)
            answers.set(key, answer)
            if (put === undefined) continue
            const hashed = client.keyOf(key)
            if (put === "remove") {
              if (item.cas === undefined) continue
              asked.push(key)
              requests.push({ key: hashed, pieces: [`md ${hashed} C${item.cas}\r\n`] })
              continue
            }
            const generation = generations.get(namespaceOf(key))
            if (generation === undefined) {
              again.push(key)
              continue
            }
            const ends = Math.max(put.entry?.until ?? 0, put.lease?.until ?? 0)
            const request = writing(
              hashed,
              encode(generation, put.entry, put.lease),
              droppedAt(ends - now, now),
              item.cas === undefined ? " ME" : ` C${item.cas}`
            )
            if (request.size > client.maxValueBytes) return yield* tooLarge(method)
            asked.push(key)
            requests.push(request)
          }
          const replies = yield* exchange(client, method, requests)
          left = again
          for (const [index, key] of asked.entries()) if (replies[index]?.code !== "HD") left.push(key)
        }
        return keys.map((key) => answers.get(key) as A)
      })

    const takeLease =
      (token: string, now: number, ttl: number) =>
      (item: Item): Change<Cache.Looked> =>
        item.lease === undefined || item.lease.token === token
          ? { answer: { _tag: "Taken" }, put: { entry: item.entry, lease: { token, until: now + ttl } } }
          : { answer: { _tag: "Held", left: item.lease.until - now }, put: undefined }

    const backend: Cache.Backend = {
      scope,
      get: (key) =>
        connected("get", (client, now) =>
          Effect.flatMap(look(client, "get", [key], now), ([item = nothing]) => foundOf(item, now))
        ),
      getMany: (keys) =>
        connected("getMany", (client, now) =>
          Effect.flatMap(look(client, "getMany", keys, now), (items) =>
            Effect.forEach(items, (item) => foundOf(item, now))
          )
        ),
      set: (entry) => connected("set", (client, now) => write(client, "set", [entry], now)),
      setMany: (entries) => connected("setMany", (client, now) => write(client, "setMany", entries, now)),
      delete: (keys) =>
        connected("delete", (client, now) =>
          Effect.gen(function* () {
            const distinct = [...new Set(keys)]
            const namespaces = [...new Set(distinct.map(namespaceOf))]
            const requests = namespaces.map((namespace) => {
              const key = generationKey(client, namespace)
              return { key, pieces: [`mg ${key} v T${generationLife}\r\n`] }
            })
            for (const key of distinct) {
              const hashed = client.keyOf(key)
              requests.push(
                { key: hashed, pieces: [`mg ${hashed} v c\r\n`] },
                { key: hashed, pieces: [`md ${hashed}\r\n`] }
              )
            }
            const replies = yield* client.exchangeMany("delete", requests)
            const current = new Map<string, string | undefined>()
            let failed: Cache.CacheError | undefined
            for (const [index, reply] of replies.entries()) {
              if (Either.isLeft(reply)) failed ??= failureOf("delete", reply.left)
              else if (isRefusal(reply.right)) failed ??= refusalOf("delete", reply.right)
              const namespace = namespaces[index]
              if (namespace === undefined || Either.isLeft(reply)) continue
              if (reply.right.code === "VA") current.set(namespace, reply.right.value.toString("latin1"))
            }
            let deleted = 0
            for (const [index, key] of distinct.entries()) {
              const [found, removed] = [0, 1].map((part) => replies[namespaces.length + 2 * index + part])
              if (found === undefined || Either.isLeft(found) || found.right.code !== "VA") continue
              if (removed === undefined || Either.isLeft(removed) || removed.right.code !== "HD") continue
              const item = decode(found.right.value, "0", current.get(namespaceOf(key)), now)
              if (item.entry !== undefined || item.unreadable) deleted++
            }
            if (failed === undefined) return deleted
            const { cause, description, reason } = failed
            return yield* new Cache.CacheError({ reason, method: "delete", description, deleted, cause })
          })
        ),
      discard: (keys) =>
        connected("discard", (client, now) =>
          Effect.asVoid(
            update(
              client,
              "discard",
              keys,
              now,
              (item): Change<undefined> => ({
                answer: undefined,
                put: item.lease === undefined ? "remove" : { entry: undefined, lease: item.lease }
              })
            )
          )
        ),
      clear: (by) =>
        connected("clear", (client) => {
          const generation = newStamp()
          return Effect.map(
            exchange(client, "clear", [writing(generationKey(client, by.namespace), [generation], generationLife, "")]),
            () => {
              generations.set(by.namespace, generation)
              return 0
            }
          )
        }),
      leases: {
        getOrTake: (key, token, ttl) =>
          connected("getOrElse", (client, now) =>
            Effect.flatMap(
              update(
                client,
                "getOrElse",
                [key],
                now,
                (item): Change<Item | Cache.Looked> =>
                  item.unreadable || item.entry !== undefined
                    ? { answer: item, put: undefined }
                    : takeLease(token, now, ttl)(item)
              ),
              ([answer = nothing]) =>
                "_tag" in answer
                  ? Effect.succeed(answer)
                  : Effect.map(
                      foundOf(answer, now),
                      (found): Cache.Looked => ({
                        _tag: "Found",
                        found: found ?? "unreadable"
                      })
                    )
            )
          ),
        take: (keys, token, ttl) =>
          connected("getOrElse", (client, now) => update(client, "getOrElse", keys, now, takeLease(token, now, ttl))),
        fill: (entries, token) =>
          connected("getOrElse", (client, now) =>
            Effect.gen(function* () {
              const bytes = new Map<string, { readonly until: number; readonly bytes: Buffer }>()
              for (const { compressAbove, key, text, ttl } of entries) {
                bytes.set(key, { until: now + ttl, bytes: yield* Compression.encode(text, compressAbove) })
              }
              return yield* update(
                client,
                "getOrElse",
                entries.map(({ key }) => key),
                now,
                (item, key): Change<boolean> =>
                  item.lease?.token === token
                    ? { answer: true, put: { entry: bytes.get(key), lease: undefined } }
                    : { answer: false, put: undefined }
              )
            })
          ),
        release: (keys, token) =>
          connected("getOrElse", (client, now) =>
            Effect.asVoid(
              update(
                client,
                "getOrElse",
                keys,
                now,
                (item): Change<undefined> => ({
                  answer: undefined,
                  put:
                    item.lease?.token !== token
                      ? undefined
                      : item.entry === undefined
                        ? "remove"
                        : { entry: item.entry, lease: undefined }
                })
              )
            )
          ),
        watch: (_, wake) => Polling.every(wake, { first: 20, longest: 200 })
      },
      stamps: {
        get: (keys) =>
          connected("get", (client, now) =>
            Effect.map(stampsOf(client, "get", keys, now), (all) => all.map(({ stamp }) => stamp))
          ),
        ensure: (keys, ttl) =>
          connected("set", (client, now) =>
            Effect.gen(function* () {
              const stamps = new Map<string, string>()
              let left = [...new Set(keys)]
              for (let round = 0; left.length > 0; round++) {
                if (round === mostRounds) return yield* rejected("set", "others change the same tags all the time")
                const found = yield* stampsOf(client, "set", left, now)
                const asked: Array<readonly [key: string, stamp: string]> = []
                const requests: Array<{ readonly key: string; readonly pieces: ReadonlyArray<string | Uint8Array> }> =
                  []
                for (const [index, key] of left.entries()) {
                  const { cas, stamp, until } = found[index] ?? { cas: undefined, stamp: undefined, until: 0 }
                  if (stamp !== undefined && until >= now + ttl) {
                    stamps.set(key, stamp)
                    continue
                  }
                  const next = stamp ?? newStamp()
                  const hashed = client.keyOf(key)
                  asked.push([key, next])
                  requests.push(
                    writing(
                      hashed,
                      [`1|${now + ttl}|${next}`],
                      droppedAt(ttl, now),
                      cas === undefined ? " ME" : ` C${cas}`
                    )
                  )
                }
                const replies = yield* exchange(client, "set", requests)
                left = []
                for (const [index, [key, stamp]] of asked.entries()) {
                  if (replies[index]?.code === "HD") stamps.set(key, stamp)
                  else left.push(key)
                }
              }
              return keys.map((key) => stamps.get(key) ?? "")
            })
          ),
        drop: (keys) =>
          connected("invalidateTags", (client) =>
            Effect.asVoid(
              exchange(
                client,
                "invalidateTags",
                keys.map((key) => {
                  const hashed = client.keyOf(key)
                  return { key: hashed, pieces: [`md ${hashed}\r\n`] }
                })
              )
            )
          )
      }
    }

    const stampsOf = (client: Raw, method: string, keys: ReadonlyArray<string>, now: number) =>
      Effect.map(
        exchange(
          client,
          method,
          keys.map((key) => {
            const hashed = client.keyOf(key)
            return { key: hashed, pieces: [`mg ${hashed} v c\r\n`] }
          })
        ),
        (replies) =>
          replies.map((reply) => {
            if (reply.code !== "VA") return { cas: undefined, stamp: undefined, until: 0 }
            const [version, until, stamp] = reply.value.toString("latin1").split("|")
            const ends = Number(until)
            const live = version === "1" && stamp !== undefined && stamp !== "" && ends > now
            return {
              cas: Protocol.flag(reply.flags, "c"),
              stamp: live ? stamp : undefined,
              until: live ? ends : 0
            }
          })
      )

    return backend
  })

/** What becomes of an item, and what is said of it. */
interface Change<A> {
  readonly answer: A
  readonly put: Pick<Item, "entry" | "lease"> | "remove" | undefined
}

const isRefusal = (reply: Protocol.Reply): boolean =>
  reply.code === "ERROR" || reply.code === "CLIENT_ERROR" || reply.code === "SERVER_ERROR"

const rejected = (method: string, description: string): Cache.CacheError =>
  new Cache.CacheError({ reason: "Rejected", method, description })

const tooLarge = (method: string): Cache.CacheError =>
  new Cache.CacheError({
    reason: "InvalidValue",
    method,
    description: "the entry is larger than an item may be (maxValueBytes); it is not kept"
  })

const refusalOf = (method: string, reply: Protocol.Reply): Cache.CacheError =>
  "text" in reply && /too large/.test(reply.text) ? tooLarge(method) : rejected(method, "the server refused it")
