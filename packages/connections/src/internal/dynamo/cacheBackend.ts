/**
 * How caches are kept in a table of DynamoDB: one item a key, with the entry and its exact end, the lease of the key and
 * its holder, and the second after which the service may delete it. What depends on what was there before is a conditional
 * write; everything is read consistently.
 */
import * as Crypto from "node:crypto"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Cache from "@underlay/core/state/Cache"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Compression from "../cache/compression.ts"
import { failureOf } from "../cache/errors.ts"
import * as Polling from "../cache/polling.ts"
import { asRecord, type Output, type Send } from "./client.ts"

/** The attributes of an item, as they stand in the table. */
export const attributes = {
  /** The key. */
  key: "pk",
  /** The entry: JSON, or gzip of it. */
  entry: "entry",
  /** The end of the entry or the stamp, in milliseconds. */
  ends: "ends",
  /** The service may delete the item after this second. */
  expires: "expires",
  holder: "holder",
  /** The end of the lease, in milliseconds. */
  leased: "leased",
  stamp: "stamp"
} as const

interface Item {
  readonly entry: { readonly bytes: Buffer; readonly until: number } | undefined
  readonly lease: { readonly token: string; readonly until: number } | undefined
  readonly stamp: { readonly value: string; readonly until: number } | undefined
  /** The end that is written, whatever it is of and whether or not it is past. */
  readonly ends: number | undefined
  readonly unreadable: boolean
}

const nothing: Item = { entry: undefined, lease: undefined, stamp: undefined, ends: undefined, unreadable: false }

/** An item has at most 400 KB, its names and numbers among them. */
const mostBytes = 400 * 1_024 - 1_024

/** A key has at most 2,048 bytes. */
const longestKey = 1_500

const digestMark = "sha256:"

/** How often it is tried again where others change the same item meanwhile, or where the service does not get to it. */
const mostRounds = 20

const atOnce = 16

const newStamp = (): string => Crypto.randomBytes(12).toString("base64url")

/** Keys that are too long stand there as their digest, behind the namespace, so that `clear` finds them. */
const stored = (key: string): string => {
  const from = key.indexOf(":", "cache:".length) + 1
  const own = key.slice(from)
  if (Buffer.byteLength(own) <= longestKey && !own.startsWith(digestMark)) return key
  return `${key.slice(0, from)}${digestMark}${Crypto.createHash("sha256").update(own).digest("base64url")}`
}

const numberOf = (value: unknown): number | undefined => {
  const text = asRecord(value)?.["N"]
  const number = typeof text === "string" ? Number(text) : Number.NaN
  return Number.isFinite(number) ? number : undefined
}

const textOf = (value: unknown): string | undefined => {
  const text = asRecord(value)?.["S"]
  return typeof text === "string" ? text : undefined
}

const decode = (value: unknown, now: number): Item => {
  const item = asRecord(value)
  if (item === undefined) return nothing
  const ends = numberOf(item[attributes.ends])
  const leased = numberOf(item[attributes.leased])
  const holder = textOf(item[attributes.holder])
  const stamp = textOf(item[attributes.stamp])
  const bytes = asRecord(item[attributes.entry])?.["B"]
  const unreadable = attributes.entry in item && (typeof bytes !== "string" || ends === undefined)
  return {
    entry:
      typeof bytes === "string" && ends !== undefined && ends > now
        ? { bytes: Buffer.from(bytes, "base64"), until: ends }
        : undefined,
    lease: holder !== undefined && leased !== undefined && leased > now ? { token: holder, until: leased } : undefined,
    stamp: stamp !== undefined && ends !== undefined && ends > now ? { value: stamp, until: ends } : undefined,
    ends,
    unreadable
  }
}

/** The second in which something that ends then has ended. */
const second = (until: number): { readonly N: string } => ({ N: String(Math.ceil(until / 1_000)) })

const millis = (value: number): { readonly N: string } => ({ N: String(value) })

/** The names that stand in expressions as `#name`. */
const namesIn = (...expressions: ReadonlyArray<string | undefined>): Output => {
  const names: Record<string, string> = {}
  for (const expression of expressions) {
    for (const [placeholder, name = ""] of (expression ?? "").matchAll(/#(\w+)/g)) names[placeholder] = name
  }
  return Object.keys(names).length === 0 ? {} : { ExpressionAttributeNames: names }
}

const listOf = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

export const make = (send: Send, table: string): Effect.Effect<Cache.Backend, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const asking = (method: string, operation: string, input: Output): Effect.Effect<Output, Cache.CacheError> =>
      Effect.mapError(send(operation, input), (error) => failureOf(method, error))

    const now = <A, E>(f: (now: number) => Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.clockWith((clock) => f(clock.unsafeCurrentTimeMillis()))

    const keyOf = (key: string) => ({ [attributes.key]: { S: stored(key) } })

    const read = (method: string, key: string, time: number): Effect.Effect<Item, Cache.CacheError> =>
      Effect.map(asking(method, "GetItem", { TableName: table, Key: keyOf(key), ConsistentRead: true }), (output) =>
        decode(output["Item"], time)
      )

    const pause = (round: number) => Effect.sleep(Duration.millis(Math.min(1_000, 20 * 2 ** round)))

    const given = (method: string): Cache.CacheError =>
      new Cache.CacheError({ reason: "Unavailable", method, description: "the service does not get to all of it" })

    /** The items in the order of the keys, a hundred a request. */
    const readMany = (
      method: string,
      keys: ReadonlyArray<string>,
      time: number
    ): Effect.Effect<ReadonlyArray<Item>, Cache.CacheError> =>
      Effect.gen(function* () {
        if (keys.length === 1) return [yield* read(method, keys[0] ?? "", time)]
        const names = keys.map(stored)
        const found = new Map<string, Item>()
        const distinct = [...new Set(names)]
        const piece = (some: ReadonlyArray<string>, round: number): Effect.Effect<void, Cache.CacheError> =>
          Effect.gen(function* () {
            const output = yield* asking(method, "BatchGetItem", {
              RequestItems: {
                [table]: { ConsistentRead: true, Keys: some.map((name) => ({ [attributes.key]: { S: name } })) }
              }
            })
            for (const item of listOf(asRecord(output["Responses"])?.[table])) {
              const name = textOf(asRecord(item)?.[attributes.key])
              if (name !== undefined) found.set(name, decode(item, time))
            }
            const left = listOf(asRecord(asRecord(output["UnprocessedKeys"])?.[table])?.["Keys"])
              .map((key) => textOf(asRecord(key)?.[attributes.key]))
              .filter((name) => name !== undefined)
            if (left.length === 0) return
            if (round === mostRounds) return yield* given(method)
            yield* pause(round)
            yield* piece(left, left.length < some.length ? round : round + 1)
          })
        yield* Effect.forEach(pieces(distinct, 100), (some) => piece(some, 0), { concurrency: 4, discard: true })
        return names.map((name) => found.get(name) ?? nothing)
      })

    /** Puts and deletions, 25 a request, of keys that are all different. */
    const writeMany = (method: string, writes: ReadonlyArray<Output>): Effect.Effect<void, Cache.CacheError> => {
      const piece = (some: ReadonlyArray<unknown>, round: number): Effect.Effect<void, Cache.CacheError> =>
        Effect.gen(function* () {
          const output = yield* asking(method, "BatchWriteItem", { RequestItems: { [table]: some } })
          const left = listOf(asRecord(output["UnprocessedItems"])?.[table])
          if (left.length === 0) return
          if (round === mostRounds) return yield* given(method)
          yield* pause(round)
          yield* piece(left, left.length < some.length ? round : round + 1)
        })
      return Effect.forEach(pieces(writes, 25), (some) => piece(some, 0), { concurrency: 4, discard: true })
    }

    /** Whether it was done: false where the condition does not hold. */
    const conditional = (method: string, operation: string, input: Output): Effect.Effect<boolean, Cache.CacheError> =>
      Effect.matchEffect(send(operation, input), {
        onSuccess: () => Effect.succeed(true),
        onFailure: (error) => (isRefusal(error) ? Effect.succeed(false) : Effect.fail(failureOf(method, error)))
      })

    const update = (
      method: string,
      key: string,
      expression: string,
      condition: string,
      values: Readonly<Record<string, unknown>>
    ): Effect.Effect<boolean, Cache.CacheError> =>
      conditional(method, "UpdateItem", {
        TableName: table,
        Key: keyOf(key),
        UpdateExpression: expression,
        ConditionExpression: condition,
        ...namesIn(expression, condition),
        ...(Object.keys(values).length === 0 ? {} : { ExpressionAttributeValues: values })
      })

    const itemOf = (
      { compressAbove, key, text, ttl }: Cache.BackendEntry,
      time: number
    ): Effect.Effect<{
      readonly item: Output
      readonly bytes: Buffer
      readonly until: number
      readonly large: boolean
    }> =>
      Effect.map(Compression.encode(text, compressAbove), (bytes) => {
        const until = time + ttl
        return {
          bytes,
          until,
          large: bytes.length + Buffer.byteLength(key) > mostBytes,
          item: {
            ...keyOf(key),
            [attributes.entry]: { B: bytes.toString("base64") },
            [attributes.ends]: millis(until),
            [attributes.expires]: second(until)
          }
        }
      })

    const foundOf = (item: Item, time: number): Effect.Effect<Cache.Found> => {
      if (item.unreadable) return Effect.succeed("unreadable")
      const { entry } = item
      return entry === undefined
        ? Effect.succeed(undefined)
        : Effect.map(Compression.decode(entry.bytes), (text) =>
            text === undefined ? "unreadable" : { text, left: entry.until - time }
          )
    }

    const set = (method: string, entries: ReadonlyArray<Cache.BackendEntry>): Effect.Effect<void, Cache.CacheError> =>
      now((time) =>
        Effect.gen(function* () {
          // of several for one key the last one counts
          const writes = new Map<string, Output>()
          let large = false
          for (const entry of entries) {
            const made = yield* itemOf(entry, time)
            if (made.large) large = true
            writes.set(
              stored(entry.key),
              made.large ? { DeleteRequest: { Key: keyOf(entry.key) } } : { PutRequest: { Item: made.item } }
            )
          }
          const [only, ...others] = writes.values()
          const single = asRecord(only?.["PutRequest"])
          if (others.length === 0 && single !== undefined) {
            yield* asking(method, "PutItem", { TableName: table, ...single })
          } else if (only !== undefined) yield* writeMany(method, [...writes.values()])
          if (large) return yield* tooLarge(method)
        })
      )

    const deleteOne = (key: string, time: number): Effect.Effect<boolean, Cache.CacheError> =>
      Effect.map(
        asking("delete", "DeleteItem", { TableName: table, Key: keyOf(key), ReturnValues: "ALL_OLD" }),
        (output) => {
          const item = decode(output["Attributes"], time)
          return item.entry !== undefined || item.unreadable
        }
      )

    /** Deletes each of them, whatever becomes of the others. */
    const deleteAll = (method: string, keys: ReadonlyArray<string>): Effect.Effect<number, Cache.CacheError> =>
      now((time) =>
        Effect.gen(function* () {
          const results = yield* Effect.forEach([...new Set(keys)], (key) => Effect.either(deleteOne(key, time)), {
            concurrency: atOnce
          })
          const deleted = results.filter((one) => one._tag === "Right" && one.right).length
          const failed = results.find((one) => one._tag === "Left")
          if (failed?._tag !== "Left") return deleted
          const { cause, description, reason } = failed.left
          return yield* new Cache.CacheError({ reason, method, description, deleted, cause })
        })
      )

    /** Walks the table and deletes what is of the namespace. */
    const clear = (by: Cache.Origin): Effect.Effect<number, Cache.CacheError> =>
      now((time) => {
        const filter = "begins_with(#pk, :prefix)"
        let cleared = 0
        const walk = (start: unknown): Effect.Effect<void, Cache.CacheError> =>
          Effect.gen(function* () {
            const output = yield* asking("clear", "Scan", {
              TableName: table,
              ConsistentRead: true,
              FilterExpression: filter,
              ProjectionExpression: "#pk, #ends, #stamp, #entry",
              ...namesIn(filter, "#ends #stamp #entry"),
              ExpressionAttributeValues: { ":prefix": { S: by.prefix } },
              ...(start === undefined ? {} : { ExclusiveStartKey: start })
            })
            const items = listOf(output["Items"]).map((item) => asRecord(item) ?? {})
            yield* writeMany(
              "clear",
              items.map((item) => ({ DeleteRequest: { Key: { [attributes.key]: item[attributes.key] } } }))
            )
            for (const item of items) {
              const { entry, unreadable } = decode(item, time)
              if (entry !== undefined || unreadable) cleared++
            }
            if (output["LastEvaluatedKey"] !== undefined) yield* walk(output["LastEvaluatedKey"])
          })
        return Effect.matchEffect(walk(undefined), {
          onSuccess: () => Effect.succeed(cleared),
          onFailure: ({ cause, description, reason }) =>
            Effect.fail(new Cache.CacheError({ reason, method: "clear", description, deleted: cleared, cause }))
        })
      })

    const free = "(attribute_not_exists(#leased) OR #leased <= :now OR #holder = :token)"

    const getOrTake = (
      key: string,
      token: string,
      ttl: number,
      round = 0
    ): Effect.Effect<Cache.Looked, Cache.CacheError> =>
      now((time) =>
        Effect.gen(function* () {
          const taken = yield* update(
            "getOrElse",
            key,
            "SET #holder = :token, #leased = :until, #expires = :second REMOVE #entry, #ends",
            `${free} AND (attribute_not_exists(#entry) OR #ends <= :now)`,
            {
              ":now": millis(time),
              ":token": { S: token },
              ":until": millis(time + ttl),
              ":second": second(time + ttl)
            }
          )
          if (taken) return { _tag: "Taken" }
          const item = yield* read("getOrElse", key, time)
          const found = yield* foundOf(item, time)
          if (found !== undefined) return { _tag: "Found", found }
          if (item.lease !== undefined && item.lease.token !== token) {
            // it may have ended while it was asked for
            const until = item.lease.until
            const left = yield* now((later) => Effect.succeed(until - later))
            if (left > 0) return { _tag: "Held", left }
          }
          return round === mostRounds ? { _tag: "Held", left: ttl } : yield* getOrTake(key, token, ttl, round + 1)
        })
      )

    const take = (
      key: string,
      token: string,
      ttl: number,
      time: number
    ): Effect.Effect<Cache.Looked, Cache.CacheError> => {
      const attempt = (round: number): Effect.Effect<Cache.Looked, Cache.CacheError> =>
        Effect.gen(function* () {
          const item = yield* read("getOrElse", key, time)
          if (item.lease !== undefined && item.lease.token !== token) {
            return { _tag: "Held", left: item.lease.until - time }
          }
          if (round === mostRounds) return { _tag: "Held", left: ttl }
          const taken = yield* update(
            "getOrElse",
            key,
            "SET #holder = :token, #leased = :until, #expires = :second",
            // the entry is the one that was seen, so it ends when that did
            `${free} AND ${item.ends === undefined ? "attribute_not_exists(#ends)" : "#ends = :ends"}`,
            {
              ":now": millis(time),
              ":token": { S: token },
              ":until": millis(time + ttl),
              ":second": second(Math.max(time + ttl, item.ends ?? 0)),
              ...(item.ends === undefined ? {} : { ":ends": millis(item.ends) })
            }
          )
          return taken ? { _tag: "Taken" } : yield* attempt(round + 1)
        })
      return attempt(0)
    }

    const ensure = (key: string, ttl: number, time: number): Effect.Effect<string, Cache.CacheError> => {
      const attempt = (round: number): Effect.Effect<string, Cache.CacheError> =>
        Effect.gen(function* () {
          const { ends, stamp } = yield* read("set", key, time)
          if (stamp !== undefined && stamp.until >= time + ttl) return stamp.value
          const next = stamp?.value ?? newStamp()
          const made = yield* update(
            "set",
            key,
            "SET #stamp = :stamp, #ends = :until, #expires = :second",
            ends === undefined ? "attribute_not_exists(#pk)" : "#ends = :ends",
            {
              ":stamp": { S: next },
              ":until": millis(time + ttl),
              ":second": second(time + ttl),
              ...(ends === undefined ? {} : { ":ends": millis(ends) })
            }
          )
          if (made) return next
          if (round === mostRounds) {
            return yield* new Cache.CacheError({
              reason: "Rejected",
              method: "set",
              description: "others change the same tags all the time"
            })
          }
          return yield* attempt(round + 1)
        })
      return attempt(0)
    }

    return {
      scope,
      get: (key) => now((time) => Effect.flatMap(read("get", key, time), (item) => foundOf(item, time))),
      getMany: (keys) =>
        keys.length === 0
          ? Effect.succeed([])
          : now((time) =>
              Effect.flatMap(readMany("getMany", keys, time), (items) =>
                Effect.forEach(items, (item) => foundOf(item, time))
              )
            ),
      set: (entry) => set("set", [entry]),
      setMany: (entries) => set("setMany", entries),
      delete: (keys) => deleteAll("delete", keys),
      discard: (keys) =>
        Effect.forEach(
          [...new Set(keys)],
          (key) => update("discard", key, "REMOVE #entry, #ends", "attribute_exists(#pk)", {}),
          { concurrency: atOnce, discard: true }
        ),
      clear,
      leases: {
        getOrTake: (key, token, ttl) => getOrTake(key, token, ttl),
        take: (keys, token, ttl) =>
          now((time) => Effect.forEach(keys, (key) => take(key, token, ttl, time), { concurrency: atOnce })),
        fill: (entries, token) =>
          now((time) =>
            Effect.forEach(
              entries,
              (entry) =>
                Effect.flatMap(itemOf(entry, time), ({ bytes, large, until }) =>
                  large
                    ? Effect.fail(tooLarge("getOrElse"))
                    : update(
                        "getOrElse",
                        entry.key,
                        "SET #entry = :entry, #ends = :until, #expires = :second REMOVE #holder, #leased",
                        "#holder = :token AND #leased > :now",
                        {
                          ":entry": { B: bytes.toString("base64") },
                          ":until": millis(until),
                          ":second": second(until),
                          ":token": { S: token },
                          ":now": millis(time)
                        }
                      )
                ),
              { concurrency: atOnce }
            )
          ),
        release: (keys, token) =>
          Effect.forEach(
            keys,
            (key) =>
              update("getOrElse", key, "REMOVE #holder, #leased", "#holder = :token", { ":token": { S: token } }),
            { concurrency: atOnce, discard: true }
          ),
        watch: (_, wake) => Polling.every(wake, { first: 50, longest: 400 })
      },
      stamps: {
        get: (keys) =>
          keys.length === 0
            ? Effect.succeed([])
            : now((time) => Effect.map(readMany("get", keys, time), (items) => items.map(({ stamp }) => stamp?.value))),
        ensure: (keys, ttl) =>
          now((time) => Effect.forEach(keys, (key) => ensure(key, ttl, time), { concurrency: atOnce })),
        drop: (keys) =>
          Effect.forEach(keys, (key) => asking("invalidateTags", "DeleteItem", { TableName: table, Key: keyOf(key) }), {
            concurrency: atOnce,
            discard: true
          })
      }
    }
  })

const isRefusal = (error: ConnectionError): boolean => error.code === "ConditionalCheckFailedException"

const tooLarge = (method: string): Cache.CacheError =>
  new Cache.CacheError({
    reason: "InvalidValue",
    method,
    description: "the entry is larger than an item may be (400 KB); it is not kept"
  })

const pieces = <A>(all: ReadonlyArray<A>, size: number): ReadonlyArray<ReadonlyArray<A>> => {
  const out: Array<ReadonlyArray<A>> = []
  for (let from = 0; from < all.length; from += size) out.push(all.slice(from, from + size))
  return out
}
