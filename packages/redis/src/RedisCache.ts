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
import type { Node } from "./internal/model.ts"
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

/**
 * The same with options.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (options: Options): Layer.Layer<Cache.Cache, never, RedisClient.RedisClient> =>
  Layer.scoped(
    Cache.Cache,
    Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options))
  )

/**
 * Options of the backend.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * Tiers in the process hear of changes from the server too, not only from the handles that make them: so writes of
   * programs that tell nobody, evictions and `FLUSHALL` are seen as well. The server tracks the keys of the namespace
   * (`CLIENT TRACKING … BCAST`), over one more connection for each handle that has a tier, and the tier is emptied and not
   * used while that is lost. The price: the server tells of a handle's own writes like of all others, so what it writes is
   * in its tier only once it has been read; and every change of the namespace is sent to every such handle. Not on a
   * Cluster, where `Cache.make` with a tier fails with `InvalidOptions`. Default: false.
   */
  readonly tracking?: boolean | undefined
}

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
export const make = (
  client: RedisClient.Service,
  options: Options = {}
): Effect.Effect<Cache.Backend, never, Scope.Scope> =>
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

    /**
     * Independent changes in bursts, one burst after the other, whatever becomes of single ones: with one master of a
     * Cluster away the others still do theirs. Where nothing of a burst gets through no other is sent.
     */
    const each = <A>(
      all: ReadonlyArray<A>,
      stepOf: (one: A) => Effect.Effect<RedisClient.Step>
    ): Effect.Effect<Partly> =>
      Effect.gen(function* () {
        const partly = { done: 0, counted: 0, failed: undefined as RedisError | undefined }
        for (const piece of StoreErrors.pieces(all, burst)) {
          const before = partly.done
          for (const result of yield* client.sendMany(yield* Effect.forEach(piece, stepOf))) {
            if (Either.isLeft(result)) {
              partly.failed ??= result.left
              continue
            }
            partly.done++
            if (typeof result.right === "number") partly.counted += result.right
          }
          if (partly.done === before) break
        }
        return partly
      })

    /** Which slots the nodes of a Cluster have, with those on their way in brackets. Elsewhere nothing moves. */
    const placement: Effect.Effect<string, RedisError> =
      client.topology === "cluster"
        ? Effect.flatMap(client.nodes, (nodes) =>
            Effect.map(
              Effect.forEach(nodes, (node) =>
                Effect.match(node.send("CLUSTER", "NODES"), {
                  // walking it says so
                  onFailure: () => node.id,
                  onSuccess: (reply) => {
                    const own = String(reply)
                      .split("\n")
                      .find((line) => line.includes("myself"))
                    return `${node.id} ${own?.split(" ").slice(8).join(" ") ?? ""}`
                  }
                })
              ),
              (all) => all.join("\n")
            )
          )
        : Effect.succeed("")

    /**
     * Frees every key that matches, on every node that can be reached, and counts them. While slots of a Cluster are moved,
     * a key can go from a node that is still to be walked to one that has been: it walks again until nothing moved
     * meanwhile.
     */
    const sweep = (pattern: string): Effect.Effect<Swept, RedisError> =>
      Effect.gen(function* () {
        const swept: Swept = { counted: 0, failed: undefined }
        let before = yield* placement
        // a Cluster that is moved about for hours shall not keep it busy as long
        for (let walks = 0; walks < mostWalks; walks++) {
          // what the last walk could not reach
          swept.failed = undefined
          for (const node of yield* client.nodes) yield* walk(node, pattern, swept)
          const after = yield* placement
          if (after === before && !after.includes("[")) break
          before = after
        }
        return swept
      })

    const walk = (node: Node, pattern: string, swept: Swept): Effect.Effect<void> =>
      Effect.gen(function* () {
        let cursor = "0"
        do {
          const reply = yield* Effect.either(node.send("SCAN", cursor, "MATCH", pattern, "COUNT", burst))
          if (Either.isLeft(reply)) {
            swept.failed ??= reply.left
            return
          }
          const [next, found] = Array.isArray(reply.right) ? reply.right : []
          const keys = Array.isArray(found) ? found.filter((one) => typeof one === "string") : []
          if (keys.length > 0) {
            const { counted, failed } = yield* unlink(keys)
            swept.counted += counted
            swept.failed ??= failed
          }
          cursor = typeof next === "string" ? next : "0"
        } while (cursor !== "0")
      })

    /** On a Cluster one command may have keys of one slot only. */
    const unlink = (keys: ReadonlyArray<string>): Effect.Effect<Partly> =>
      client.topology === "cluster"
        ? each(keys, (key) => Effect.succeed(["UNLINK", key]))
        : each(StoreErrors.pieces(keys, burst), (piece) => Effect.succeed(["UNLINK", ...piece]))

    /** What handles tell of their changes. */
    const listen: Listen = (by, handler) =>
      Effect.mapError(
        client.listen([Keys.changesChannel(by.namespace)], (event) =>
          handler(event._tag === "Message" ? Keys.heardOf(event.payload) : event)
        ),
        fails("make")
      )

    /** What handles tell, and what the server does of whoever changes a key: all is heard while both are. */
    const listenBoth: Listen = (by, handler) => {
      if (client.topology === "cluster") {
        return Effect.fail(
          new Cache.CacheError({
            reason: "InvalidOptions",
            method: "make",
            description:
              "a tier in the process cannot go by tracking on a Cluster, whose nodes tell of their own keys only"
          })
        )
      }
      const heard = new Set<"messages" | "keys">()
      const from = (source: "messages" | "keys") => (event: Cache.Heard) => {
        if (event._tag === "Changed") return handler(event)
        const wasAll = heard.size === 2
        if (event._tag === "Ready") heard.add(source)
        else heard.delete(source)
        if (event._tag === "Ready" && heard.size === 2) handler(event)
        else if (wasAll && heard.size < 2) handler({ _tag: "Lost" })
      }
      const onKeys = from("keys")
      return Effect.zipRight(
        listen(by, from("messages")),
        Effect.mapError(
          client.track([by.prefix], (event) =>
            onKeys(event._tag === "Invalidated" ? Keys.invalidatedOf(event.keys) : event)
          ),
          fails("make")
        )
      )
    }

    return {
      scope,
      get: (key, timed) => Effect.matchEffect(get(key, timed), reading),
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
        Effect.flatMap(
          // one burst after another, so that no more than one is held as bytes
          each(entries, (entry) => write(entry, by)),
          ({ failed }) => (failed === undefined ? Effect.void : Effect.fail(fails("setMany")(failed)))
        ),
      delete: (keys, by) =>
        Effect.flatMap(
          each(keys, (key) => Effect.succeed(removal(key, by))),
          counted("delete")
        ),
      discard: (keys) => Effect.mapBoth(inBursts(keys.map((key) => ["UNLINK", key])), done("discard")),
      clear: (by) =>
        Effect.gen(function* () {
          // first of all, so that what is being computed is not kept
          const leases = yield* sweep(Keys.leasePattern(by.prefix))
          const entries = yield* sweep(Keys.pattern(by.prefix))
          const told = yield* each<RedisClient.Step>(
            [
              ["PUBLISH", Keys.changesChannel(by.namespace), Keys.message(by, { cleared: true })],
              ["PUBLISH", Keys.leasesChannel(by.prefix), ""]
            ],
            Effect.succeed
          )
          return { counted: entries.counted, failed: entries.failed ?? leases.failed ?? told.failed }
        }).pipe(Effect.mapError(fails("clear")), Effect.flatMap(counted("clear"))),
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
          Effect.mapBoth(
            Effect.forEach(StoreErrors.pieces(keys, burst), (piece) =>
              Effect.flatMap(client.sendMany(piece.map((key) => ["GET", key])), stampsOf)
            ),
            { onSuccess: (stamps) => stamps.flat(1), onFailure: fails("get") }
          ),
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
      listen: options.tracking === true ? listenBoth : listen
    }
  })

/** Listens until the scope closes. */
type Listen = NonNullable<Cache.Backend["listen"]>

/** What came of independent changes: the sum of the numbers that were answered, and the first failure. */
interface Swept {
  counted: number
  failed: RedisError | undefined
}

interface Partly extends Readonly<Swept> {
  /** How many were done. */
  readonly done: number
}

/** The number; or the failure, which has it too. */
const counted =
  (method: string) =>
  ({ counted, failed }: Readonly<Swept>): Effect.Effect<number, Cache.CacheError> =>
    failed === undefined
      ? Effect.succeed(counted)
      : Effect.fail(
          new Cache.CacheError({
            reason: StoreErrors.reasonOf(failed),
            method,
            description: StoreErrors.descriptionOf(failed),
            deleted: counted,
            cause: failed
          })
        )

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

const reading = {
  onSuccess: foundOf,
  onFailure: (error: RedisError): Effect.Effect<Cache.Found, Cache.CacheError> =>
    error.reason === "WrongType" ? Effect.succeed("unreadable") : Effect.fail(fails("get")(error))
}

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
