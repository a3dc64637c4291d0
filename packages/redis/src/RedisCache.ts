/**
 * The cache backend on Redis: one key an entry, always with a time to live, cleared by scanning. Every operation is one
 * command or one script on keys of one slot, so that all of it works on a Cluster. Plain effects.
 *
 * @since 0.1.0
 */
import * as Cache from "@underlay/core/state/Cache"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Keys from "./internal/cacheKeys.ts"
import * as Scripts from "./internal/cacheScripts.ts"
import * as Compression from "./internal/compression.ts"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * The backend of core's caches on the Redis client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Cache.Cache, never, RedisClient.RedisClient> = Layer.scoped(
  Cache.Cache,
  Effect.flatMap(RedisClient.RedisClient, (client) => make(client))
)

/** Commands that are sent in one go. */
const burst = 500

/** How often the keys of a Cluster are walked to clear them while its slots are on the move. */
const mostWalks = 8

/**
 * The backend as a value. What is asked for many keys is sent in one go, 500 at a time; `clear` walks the keys of each
 * node with `SCAN` and frees what it finds with `UNLINK`.
 *
 * Beside the entries, at `cache:<namespace>:<key>`, there are leases (`cache:~lease:…`), the stamps of tags
 * (`cache:~tag:<namespace>:<tag>`) and of namespaces (`cache:~generation:<namespace>`), and two channels for each
 * namespace: `cache:~changes:<namespace>` and `cache:~leases:<namespace>`. What is kept compressed is plain gzip of the
 * entry's JSON.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (client: RedisClient.Service): Effect.Effect<Cache.Backend, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope): Cache.Backend => {
    const get = (key: string, timed: boolean): Effect.Effect<RedisClient.BinaryReply, RedisError> =>
      timed ? client.runBuffer(Scripts.timed, [key], []) : client.sendBuffer("GET", key)

    const write = (
      { compressAbove, key, text, ttl }: Cache.BackendEntry,
      by: Cache.Origin
    ): Effect.Effect<RedisClient.ScriptStep> =>
      Effect.map(Compression.encode(text, compressAbove), (value) => ({
        script: Scripts.set,
        keys: [key, Keys.lease(key)],
        args: [
          value,
          ttl,
          Keys.changesChannel(by.namespace),
          Keys.leasesChannel(key),
          Keys.message(by, { keys: [key] })
        ]
      }))

    const run = ({ args, keys, script }: RedisClient.ScriptStep): Effect.Effect<RedisClient.Reply, RedisError> =>
      client.run(script, keys, args)

    const removal = (key: string, by: Cache.Origin): RedisClient.ScriptStep => ({
      script: Scripts.remove,
      keys: [key, Keys.lease(key)],
      args: [Keys.changesChannel(by.namespace), Keys.leasesChannel(key), Keys.message(by, { keys: [key] })]
    })

    /** Steps in bursts; the first failure among their replies is the failure. */
    const inBursts = (
      steps: ReadonlyArray<RedisClient.Step>
    ): Effect.Effect<ReadonlyArray<RedisClient.Reply>, RedisError> =>
      Effect.map(
        Effect.forEach(StoreErrors.pieces(steps, burst), (piece) =>
          Effect.flatMap(client.sendMany(piece), StoreErrors.allReplies)
        ),
        (replies) => replies.flat(1)
      )

    /** Which slots the nodes of a Cluster have, with those on their way in brackets. Elsewhere nothing moves. */
    const placement: Effect.Effect<string, RedisError> =
      client.topology === "cluster"
        ? Effect.flatMap(client.nodes, (nodes) =>
            Effect.map(
              Effect.forEach(nodes, (node) =>
                Effect.map(node.send("CLUSTER", "NODES"), (reply) => {
                  const own = String(reply)
                    .split("\n")
                    .find((line) => line.includes("myself"))
                  return `${node.id} ${own?.split(" ").slice(8).join(" ") ?? ""}`
                })
              ),
              (all) => all.join("\n")
            )
          )
        : Effect.succeed("")

    /**
     * Frees every key that matches, on every node, and gives their number. While slots of a Cluster are moved, a key can
     * go from a node that is still to be walked to one that has been: it walks again until nothing moved meanwhile.
     */
    const sweep = (pattern: string): Effect.Effect<number, RedisError> =>
      Effect.gen(function* () {
        let count = 0
        let before = yield* placement
        // a Cluster that is moved about for hours shall not keep it busy as long
        for (let walks = 0; walks < mostWalks; walks++) {
          count += yield* walk(pattern)
          const after = yield* placement
          if (after === before && !after.includes("[")) break
          before = after
        }
        return count
      })

    const walk = (pattern: string): Effect.Effect<number, RedisError> =>
      Effect.gen(function* () {
        let count = 0
        for (const node of yield* client.nodes) {
          let cursor = "0"
          do {
            const reply = yield* node.send("SCAN", cursor, "MATCH", pattern, "COUNT", burst)
            const [next, found] = Array.isArray(reply) ? reply : []
            const keys = Array.isArray(found) ? found.filter((one) => typeof one === "string") : []
            if (keys.length > 0) count += yield* unlink(keys)
            cursor = typeof next === "string" ? next : "0"
          } while (cursor !== "0")
        }
        return count
      })

    /** On a Cluster one command may have keys of one slot only. */
    const unlink = (keys: ReadonlyArray<string>): Effect.Effect<number, RedisError> =>
      client.topology === "cluster"
        ? Effect.map(inBursts(keys.map((key) => ["UNLINK", key])), (replies) =>
            replies.reduce<number>((sum, one) => sum + (typeof one === "number" ? one : 0), 0)
          )
        : Effect.map(inBursts(StoreErrors.pieces(keys, burst).map((piece) => ["UNLINK", ...piece])), (replies) =>
            replies.reduce<number>((sum, one) => sum + (typeof one === "number" ? one : 0), 0)
          )

    return {
      scope,
      get: (key, timed) => Effect.matchEffect(get(key, timed), reading("get")),
      getMany: (keys, timed) =>
        Effect.mapError(
          Effect.map(
            Effect.forEach(StoreErrors.pieces(keys, burst), (piece) =>
              Effect.flatMap(
                client.sendManyBuffer(
                  piece.map((key) => (timed ? { script: Scripts.timed, keys: [key], args: [] } : ["GET", key]))
                ),
                (results) => Effect.forEach(results, found)
              )
            ),
            (all) => all.flat(1)
          ),
          fails("getMany")
        ),
      set: (entry, by) => Effect.mapBoth(Effect.flatMap(write(entry, by), run), done("set")),
      setMany: (entries, by) =>
        Effect.mapBoth(
          // one piece after another, so that no more than one is held as bytes
          Effect.forEach(
            StoreErrors.pieces(entries, burst),
            (piece) =>
              Effect.flatMap(
                Effect.forEach(piece, (entry) => write(entry, by)),
                inBursts
              ),
            { discard: true }
          ),
          done("setMany")
        ),
      delete: (keys, by) =>
        Effect.mapBoth(inBursts(keys.map((key) => removal(key, by))), {
          onSuccess: (replies) => replies.filter((one) => one === 1).length,
          onFailure: fails("delete")
        }),
      discard: (keys) => Effect.mapBoth(inBursts(keys.map((key) => ["UNLINK", key])), done("discard")),
      clear: (by) =>
        Effect.mapError(
          Effect.gen(function* () {
            // first of all, so that what is being computed is not kept
            yield* sweep(Keys.leasePattern(by.prefix))
            const count = yield* sweep(Keys.pattern(by.prefix))
            yield* inBursts([
              ["PUBLISH", Keys.changesChannel(by.namespace), Keys.message(by, { cleared: true })],
              ["PUBLISH", Keys.leasesChannel(by.prefix), ""]
            ])
            return count
          }),
          fails("clear")
        ),
      leases: {
        getOrTake: (key, token, ttl) =>
          Effect.matchEffect(client.runBuffer(Scripts.getOrTake, [key, Keys.lease(key)], [token, ttl]), {
            onSuccess: (reply) =>
              Array.isArray(reply) ? Effect.map(foundOf(reply), asLooked) : Effect.succeed(turnOf(reply)),
            onFailure: (error) =>
              error.reason === "WrongType" ? Effect.succeed(asLooked("unreadable")) : fails("getOrElse")(error)
          }),
        take: (keys, token, ttl) =>
          Effect.mapBoth(
            inBursts(keys.map((key) => ({ script: Scripts.take, keys: [Keys.lease(key)], args: [token, ttl] }))),
            { onSuccess: (replies) => replies.map(turnOf), onFailure: fails("getOrElse") }
          ),
        fill: (entries, token, by) =>
          Effect.mapBoth(
            Effect.flatMap(
              Effect.forEach(entries, (entry) => write(entry, by)),
              (steps) =>
                inBursts(steps.map(({ args, keys }) => ({ script: Scripts.fill, keys, args: [...args, token] })))
            ),
            { onSuccess: (replies) => replies.map((reply) => reply === 1), onFailure: fails("getOrElse") }
          ),
        release: (keys, token) =>
          Effect.mapBoth(
            inBursts(
              keys.map((key) => ({
                script: Scripts.release,
                keys: [Keys.lease(key)],
                args: [token, Keys.leasesChannel(key), key]
              }))
            ),
            done("getOrElse")
          ),
        watch: (key, wake) =>
          Effect.mapError(
            client.listen([Keys.leasesChannel(key)], (event) => {
              // after a loss its end may not have been heard
              if (event._tag === "Ready") wake()
              else if (event._tag === "Message" && (event.payload === key || event.payload === "")) wake()
            }),
            fails("getOrElse")
          )
      },
      stamps: {
        get: (keys) =>
          Effect.mapBoth(Effect.flatMap(client.sendMany(keys.map((key) => ["GET", key])), stampsOf), {
            onSuccess: (stamps) => stamps,
            onFailure: fails("get")
          }),
        ensure: (keys, ttl) =>
          Effect.mapBoth(
            inBursts(
              keys.map((key) => ({ script: Scripts.ensureStamp, keys: [key], args: [crypto.randomUUID(), ttl] }))
            ),
            {
              onSuccess: (replies) => replies.map((one) => (typeof one === "string" ? one : "")),
              onFailure: fails("set")
            }
          ),
        drop: (keys, tags, by) =>
          Effect.mapBoth(
            inBursts(
              keys.map((key, index) => ({
                script: Scripts.dropStamp,
                keys: [key],
                args: [
                  Keys.changesChannel(by.namespace),
                  Keys.message(by, tags === undefined ? { cleared: true } : { tags: tags.slice(index, index + 1) })
                ]
              }))
            ),
            done("invalidateTags")
          )
      },
      listen: (by, handler) =>
        Effect.mapError(
          client.listen([Keys.changesChannel(by.namespace)], (event) =>
            handler(event._tag === "Message" ? Keys.heardOf(event.payload) : event)
          ),
          fails("make")
        )
    }
  })

const fails =
  (method: string) =>
  (error: RedisError): Cache.CacheError =>
    new Cache.CacheError({
      reason: StoreErrors.reasonOf(error),
      method,
      description: StoreErrors.descriptionOf(error),
      cause: error
    })

const done = (method: string) => ({ onSuccess: () => undefined, onFailure: fails(method) })

/** A reply of `GET`, or of the script that says what is left too. */
const foundOf = (reply: RedisClient.BinaryReply): Effect.Effect<Cache.Found> => {
  const [value, left] = Array.isArray(reply) ? (reply as ReadonlyArray<RedisClient.BinaryReply>) : [reply]
  if (value === null || value === undefined) return Effect.succeed(undefined)
  if (!(value instanceof Uint8Array)) return Effect.succeed("unreadable")
  const time = typeof left === "number" ? left : undefined
  const found = (text: string | undefined): Cache.Found => (text === undefined ? "unreadable" : { text, left: time })
  return Compression.isCompressed(value)
    ? Effect.map(Compression.inflate(value), found)
    : Effect.succeed(found(Compression.textOf(value)))
}

/** A key of another type is no entry. */
const found = (result: Either.Either<RedisClient.BinaryReply, RedisError>): Effect.Effect<Cache.Found, RedisError> => {
  if (Either.isRight(result)) return foundOf(result.right)
  return result.left.reason === "WrongType" ? Effect.succeed("unreadable") : Effect.fail(result.left)
}

const reading = (method: string) => ({
  onSuccess: foundOf,
  onFailure: (error: RedisError): Effect.Effect<Cache.Found, Cache.CacheError> =>
    error.reason === "WrongType" ? Effect.succeed("unreadable") : Effect.fail(fails(method)(error))
})

const asLooked = (one: Cache.Found): Cache.Looked => ({ _tag: "Found", found: one ?? "unreadable" })

/** A number is what is left of another's lease. */
const turnOf = (reply: RedisClient.BinaryReply | RedisClient.Reply): Cache.Looked =>
  typeof reply === "number" ? { _tag: "Held", left: Math.max(0, reply) } : { _tag: "Taken" }

const stampsOf = (
  results: ReadonlyArray<Either.Either<RedisClient.Reply, RedisError>>
): Effect.Effect<ReadonlyArray<string | undefined>, RedisError> =>
  Effect.forEach(results, (result) => {
    if (Either.isRight(result)) return Effect.succeed(typeof result.right === "string" ? result.right : undefined)
    return result.left.reason === "WrongType" ? Effect.succeed(undefined) : Effect.fail(result.left)
  })
