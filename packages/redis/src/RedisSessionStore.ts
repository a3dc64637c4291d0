/**
 * Sessions in Redis: JSON at `session:<id>`, what goes with it at `{session:<id>}:…`, which a cluster keeps in the same
 * slot, and an index of each owner's sessions that heals itself. One round trip an operation (`update` and `rotate` two;
 * more on a cluster and where several sessions of an owner are concerned); plain effects.
 *
 * @since 0.1.0
 */
import { hash } from "node:crypto"
import * as SessionStore from "@underlay/core/state/SessionStore"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import * as Scripts from "./internal/sessionScripts.ts"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * Options of the store.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends SessionStore.Options {
  /**
   * How long an owner's index outlives the sessions of that owner. A session that is kept alive by touches renews it each
   * time that half of this is over, with a second round trip then. Default: 30 days.
   */
  readonly indexTtl?: Duration.DurationInput | undefined
  /**
   * Whether `events` hears of expired sessions from the server, of every process's and when they expire, besides those
   * that this process misses. The server must be told to say it: `notify-keyspace-events` with `E` and `x`. Not on a
   * Cluster, where each node tells only those who listen to it. Default: false.
   */
  readonly expiredEvents?: boolean | undefined
}

/**
 * The session store of core on the Redis client. Fails on options that cannot be.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<SessionStore.SessionStore, SessionStore.SessionStoreError, RedisClient.RedisClient> =>
  Layer.effect(
    SessionStore.SessionStore,
    Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options))
  )

/**
 * The store as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  client: RedisClient.Service,
  options: Options = {}
): Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError> =>
  Effect.gen(function* () {
    const indexTtl = yield* indexTtlOf(options)
    const { evicts, limit } = yield* SessionStore.limitOf(options)
    const absolute = yield* SessionStore.absoluteTtlOf(options)
    const expired = options.expiredEvents === true ? yield* expiredOf(client) : undefined
    const made = backend(client, {
      indexTtl,
      absolute,
      limit,
      evicts,
      // checked by `SessionStore.make`
      tombstone: Math.max(1, Math.ceil(Duration.toMillis(options.tombstone ?? "60 seconds"))) || 1,
      defaultTtl: Math.max(1, Math.ceil(Duration.toMillis(options.defaultTtl ?? "30 minutes"))) || 1
    })
    return yield* SessionStore.make({ ...made, expired }, options)
  })

const invalid = (reason: "InvalidTtl" | "InvalidOptions", description: string) =>
  new SessionStore.SessionStoreError({ reason, method: "make", description, outcome: "not-done" })

const indexTtlOf = (options: Options): Effect.Effect<number, SessionStore.SessionStoreError> => {
  const decoded = Duration.decodeUnknown(options.indexTtl ?? "30 days")
  const millis = Option.isNone(decoded) ? Number.NaN : Math.ceil(Duration.toMillis(decoded.value))
  return millis > 0 && millis <= longestIndexTtl
    ? Effect.succeed(millis)
    : Effect.fail(
        invalid(
          "InvalidTtl",
          "the time to live of the owner index must be a duration longer than zero and at most a century"
        )
      )
}

const failsWith =
  (method: string) =>
  (error: RedisError): SessionStore.SessionStoreError =>
    new SessionStore.SessionStoreError({
      reason: error.reason === "WrongType" ? "Corrupt" : StoreErrors.reasonOf(error),
      method,
      description: StoreErrors.descriptionOf(error),
      outcome: StoreErrors.outcomeOf(error),
      cause: error
    })

const longestIndexTtl = 100 * 366 * 24 * 60 * 60 * 1000

/** What the server says of sessions that expire, after a look at whether it says anything. */
const expiredOf = (client: RedisClient.Service): Effect.Effect<Stream.Stream<string>, SessionStore.SessionStoreError> =>
  Effect.gen(function* () {
    if (client.topology === "cluster") {
      return yield* Effect.fail(
        invalid("InvalidOptions", "expiredEvents does not work on a Cluster: each node tells only its own listeners")
      )
    }
    const fails = failsWith("make")
    // a server that does not let its settings be read may be set right all the same
    const setting = yield* Effect.option(client.send("CONFIG", "GET", "notify-keyspace-events"))
    const flags = Option.isSome(setting) && Array.isArray(setting.value) ? setting.value[1] : undefined
    if (typeof flags === "string" && !(flags.includes("E") && /[xA]/.test(flags))) {
      return yield* Effect.fail(
        invalid("InvalidOptions", "expiredEvents needs the server's setting notify-keyspace-events with E and x")
      )
    }
    const info = yield* Effect.mapError(client.send("CLIENT", "INFO"), fails)
    const database = typeof info === "string" ? (/(?:^| )db=(\d+)/.exec(info)?.[1] ?? "0") : "0"
    const prefix = Scripts.key("")
    return Stream.asyncPush<string>(
      (emit) =>
        // without a connection of its own it hears nothing, and what expires is said when it is missed
        Effect.ignore(
          client.listen([`__keyevent@${database}__:expired`], (heard) => {
            if (heard._tag === "Message" && heard.payload.startsWith(prefix)) {
              emit.single(heard.payload.slice(prefix.length))
            }
          })
        ),
      { bufferSize: 4_096, strategy: "sliding" }
    )
  })

/** Sessions whose index entry this process knows to be fresh. More are forgotten, and then looked at once more. */
const knownSessions = 50_000

/**
 * A text of this length and more is compared by its hash, so that it is not sent once more. Below, computing the hash
 * costs this process more than sending the text does; here the two are equal, and half of the bytes are saved.
 */
const hashedFrom = 16_384

const { indexKey, key, tombstoneKey } = Scripts

const keys = (id: string): ReadonlyArray<string> => [key(id), tombstoneKey(id)]

const sha1 = (text: string): string => hash("sha1", text)

const text = (reply: RedisClient.Reply): string | undefined => (typeof reply === "string" ? reply : undefined)

const texts = (reply: RedisClient.Reply): ReadonlyArray<string> =>
  Array.isArray(reply) ? reply.filter((one) => typeof one === "string") : []

/** What this process knows of a session: when it was indexed for its owner, if it has one, and until when that holds. */
interface Known {
  readonly owner: string | undefined
  readonly at: number
  readonly until: number
  /** A plain write is under way, or nobody heard how it ended: what it wrote over may have been another owner's. */
  isUnsure: boolean
}

/** A session that is written again and again is indexed again so often, in milliseconds: the index may have been lost. */
const indexAgain = 60_000

/** What a reply, or a failure, means to a method. */
interface Answer<A> {
  readonly onSuccess: (reply: RedisClient.Reply) => A
  readonly onFailure: (error: RedisError) => SessionStore.SessionStoreError
}

interface Settings {
  readonly indexTtl: number
  readonly absolute: number | undefined
  readonly limit: number
  readonly evicts: boolean
  readonly tombstone: number
  readonly defaultTtl: number
}

const backend = (client: RedisClient.Service, settings: Settings): SessionStore.Backend => {
  const { absolute, defaultTtl, evicts, indexTtl, limit, tombstone } = settings
  const oneNode = client.topology !== "cluster"
  const limited = limit !== Number.POSITIVE_INFINITY
  const scripts = Scripts.make({ absolute, limit, evicts, tombstone, oneNode })

  /**
   * Until when an index is known to hold a session's entry. A touch learns the owner from its answer; so that it does not
   * take two round trips each time, the index is renewed once half of its extra time is over.
   */
  const indexedUntil = new Map<string, Known>()
  const indexedAt = (id: string, owner: string | undefined, ttl: number, now: number): void => {
    indexedUntil.delete(id)
    indexedUntil.set(id, { owner, at: now, until: now + ttl + indexTtl, isUnsure: false })
    if (indexedUntil.size <= knownSessions) return
    for (const oldest of indexedUntil.keys()) {
      indexedUntil.delete(oldest)
      return
    }
  }
  const indexed = (id: string, owner: string | undefined, ttl: number): Effect.Effect<void> =>
    Effect.map(Clock.currentTimeMillis, (now) => indexedAt(id, owner, ttl, now))
  /** What is known of a session whose index entry is fresh, if it is. */
  const freshOf = (id: string, ttl: number, now: number): Known | undefined => {
    const known = indexedUntil.get(id)
    return known !== undefined && !known.isUnsure && now + ttl + indexTtl / 2 <= known.until ? known : undefined
  }
  const isFresh = (id: string, ttl: number, now: number): boolean => freshOf(id, ttl, now) !== undefined
  /** Whether this process indexed it for this owner so lately that it need not look whether the index was lost. */
  const isLately = (known: Known | undefined, owner: string, now: number): known is Known =>
    known !== undefined && known.owner === owner && Math.abs(now - known.at) < indexAgain

  const fails =
    (method: string) =>
    (error: RedisError): SessionStore.SessionStoreError =>
      error.code === "OWNERINDEX" ? unindexed(method, error) : failsWith(method)(error)

  /** The session's index entry cannot be written: sign-out relies on it. */
  const unindexed = (method: string, cause: RedisError, written = false): SessionStore.SessionStoreError => {
    const error = failsWith(method)(cause)
    return new SessionStore.SessionStoreError({
      reason: error.reason === "Corrupt" ? "Rejected" : error.reason,
      method,
      description: `the owner index was not written: ${error.description}`,
      // the session may be written though its index entry is not: writing again is the cure
      outcome: written ? "unknown" : error.outcome,
      cause
    })
  }

  const own = (owner: string, id: string, ttl: number): RedisClient.Step => ({
    script: Scripts.own,
    keys: [indexKey(owner)],
    args: [id, ttl + indexTtl]
  })

  /** A session was touched and this process does not know its index entry to be fresh. What fails here heals later. */
  const renew = (id: string, ttl: number, json: string | undefined): Effect.Effect<void> => {
    if (json === undefined) return Effect.void
    const owner = SessionStore.ownerIn(json)
    // who gives it an owner indexes it
    if (owner === undefined) return indexed(id, undefined, ttl)
    return Effect.flatMap(client.sendMany([own(owner, id, ttl)]), ([result]) =>
      result !== undefined && Either.isRight(result) ? indexed(id, owner, ttl) : Effect.void
    )
  }

  /** A touch: two round trips only where this process has not seen the session yet, and every half of `indexTtl`. */
  const touching = <A>(
    id: string,
    ttl: number,
    touch: (fresh: boolean) => Effect.Effect<RedisClient.Reply, RedisError>,
    answer: Answer<A>
  ): Effect.Effect<A, SessionStore.SessionStoreError> =>
    Clock.clockWith((clock) =>
      isFresh(id, ttl, clock.unsafeCurrentTimeMillis())
        ? Effect.mapBoth(touch(true), answer)
        : Effect.flatMap(Effect.mapError(touch(false), answer.onFailure), (reply) =>
            Effect.as(renew(id, ttl, text(reply)), answer.onSuccess(reply))
          )
    )

  /** The touch that is asked for again and again is the same object each time. */
  let usual: { readonly touch: SessionStore.Touch; readonly script: RedisClient.Script } | undefined
  const usualTouch = (touch: SessionStore.Touch): RedisClient.Script | undefined => {
    if (usual === undefined && !touch.exact) usual = { touch, script: scripts.usualTouch(touch) }
    return usual?.touch === touch ? usual.script : undefined
  }
  const touch = (id: string, touch: SessionStore.Touch): Effect.Effect<RedisClient.Reply, RedisError> => {
    const script = usualTouch(touch)
    if (script !== undefined) return client.run(script, [key(id)], noArgs)
    const { exact, keep, ttl } = touch
    return exact && keep === ttl && absolute === undefined
      ? client.send("GETEX", key(id), "PX", ttl)
      : client.run(scripts.getAndTouch, [key(id)], [ttl, keep, exact ? 1 : 0])
  }
  const toText: Answer<string | undefined> = { onSuccess: text, onFailure: fails("getAndTouch") }
  const toTextOfGet: Answer<string | undefined> = { onSuccess: text, onFailure: fails("get") }
  const toThere: Answer<boolean> = {
    onSuccess: (reply) => reply === 1 || typeof reply === "string",
    onFailure: fails("extendTtl")
  }

  /** A write of a session and of its index entry, in one go, where they are on two nodes. */
  const indexedWrite = (
    method: string,
    { id, owner, ttl }: { readonly id: string; readonly owner: string; readonly ttl: number },
    step: RedisClient.ScriptStep
  ): Effect.Effect<RedisClient.Reply, SessionStore.SessionStoreError> =>
    // the entry first: one too many is harmless, one less is not
    Effect.flatMap(client.sendMany([own(owner, id, ttl), step]), ([entry, written]) => {
      if (written === undefined || entry === undefined) return Effect.die("sendMany answers every step")
      if (Either.isLeft(written)) return Effect.fail(fails(method)(written.left))
      if (Either.isLeft(entry)) return Effect.fail(unindexed(method, entry.left, true))
      const old = texts(entry.right).filter((one) => !one.startsWith(Scripts.mark))
      const done = Effect.as(indexed(id, owner, ttl), written.right)
      return old.length === 0 ? done : Effect.zipRight(heal(owner, old), done)
    })

  /** A large index: looks at its oldest entries and drops those without a session. What fails here heals later. */
  const heal = (owner: string, ids: ReadonlyArray<string>): Effect.Effect<void> =>
    Effect.flatMap(client.sendMany(ids.map((id) => ["EXISTS", key(id)] as const)), (results) => {
      const steps: Array<RedisClient.Step> = []
      const dead: Array<string> = []
      ids.forEach((id, index) => {
        const result = results[index]
        if (result === undefined || Either.isLeft(result)) return
        if (result.right === 0) dead.push(id)
        else steps.push(own(owner, id, 0))
      })
      if (dead.length > 0) steps.push(disown(owner, dead))
      return Effect.asVoid(client.sendMany(steps))
    })

  const disown = (owner: string, ids: ReadonlyArray<string>): RedisClient.Step => ({
    script: Scripts.disown,
    keys: [indexKey(owner)],
    args: [...ids]
  })

  const read = (
    ids: ReadonlyArray<string>
  ): Effect.Effect<ReadonlyArray<readonly [id: string, json: string | undefined]>, RedisError> =>
    Effect.map(
      Effect.forEach(StoreErrors.pieces(ids, 500), (piece) =>
        Effect.flatMap(client.sendMany(piece.map((id) => ["GET", key(id)] as const)), (results) =>
          Effect.forEach(piece, (id, index) => {
            const result = results[index]
            if (result === undefined) return Effect.die("sendMany answers every step")
            if (Either.isRight(result)) return Effect.succeed([id, text(result.right)] as const)
            // no session is kept in another type: to the index it is none
            return result.left.reason === "WrongType"
              ? Effect.succeed([id, undefined] as const)
              : Effect.fail(result.left)
          })
        )
      ),
      (found) => found.flat()
    )

  const removeAll = (
    ids: ReadonlyArray<string>,
    tombstone: number
  ): Effect.Effect<ReadonlyArray<RedisClient.Reply>, RedisError> =>
    Effect.map(
      Effect.forEach(StoreErrors.pieces(ids, 500), (piece) =>
        Effect.flatMap(
          client.sendMany(
            piece.map((id) => ({
              // with a limit on a cluster the index must hear of it: it cannot see that the session is not there
              script: limited && !oneNode ? Scripts.removeAndRead : Scripts.remove,
              keys: keys(id),
              args: [tombstone]
            }))
          ),
          StoreErrors.allReplies
        )
      ),
      (replies) => replies.flat()
    )

  /**
   * Makes room for one more session of an owner where the index is on another node than the sessions: the index admits
   * atomically, and those that give way are dead before the new one is written. Gives their ids; undefined where there is
   * no room.
   */
  const admit = (
    method: "set" | "create" | "update",
    id: string,
    owner: string,
    ttl: number
  ): Effect.Effect<ReadonlyArray<string> | undefined, SessionStore.SessionStoreError> => {
    const ask = (score: number, decide: 0 | 1, dead: ReadonlyArray<string>) =>
      client.run(
        Scripts.admit,
        [indexKey(owner)],
        [id, ttl + indexTtl, limit, evicts ? 1 : 0, decide, method === "create" ? 1 : 0, score, ...dead]
      )
    const admitted = (score: number) =>
      Effect.flatMap(ask(score, 0, []), (reply) => {
        const [full, ...others] = texts(reply)
        if (full !== "full") return Effect.succeed(reply)
        return Effect.flatMap(read(others), (found) =>
          ask(
            score,
            1,
            found.filter(([, json]) => json === undefined || SessionStore.ownerIn(json) !== owner).map(([one]) => one)
          )
        )
      })
    return Effect.mapError(
      Effect.flatMap(scoreOf(1), (score) =>
        Effect.flatMap(admitted(score), (reply) => {
          if (reply === 0) return Effect.succeed(undefined)
          const evicted = texts(reply)
          if (evicted.length === 0) return Effect.succeed(noIds)
          // their entries go last: as long as one lives, it counts, and a sign-out finds it. What fails here heals later
          const forget = client.sendMany([
            { script: Scripts.evicted, keys: [indexKey(owner)], args: [score, ...evicted] }
          ])
          return Effect.zipRight(removeAll(evicted, tombstone), Effect.as(forget, evicted))
        })
      ),
      (error) => fails(method)(error)
    )
  }

  /** A score that one step alone gives, so that it takes out what it put there and nothing else. */
  const scoreOf = (least: number): Effect.Effect<number> => Effect.map(Random.next, (part) => least + part / 2)

  const writtenAs = (reply: RedisClient.Reply, refusal: SessionStore.Written): SessionStore.Written => {
    switch (reply) {
      case 1:
        return written
      case 2:
        return writtenNew
      case -2:
        return { _tag: "Limit" }
      case -3:
        return { _tag: "Over" }
      default:
        return Array.isArray(reply)
          ? { _tag: "Written", isNew: reply[0] === 2, evicted: texts(reply.slice(1)) }
          : refusal
    }
  }

  const write = (
    method: "set" | "create",
    entry: SessionStore.Entry
  ): Effect.Effect<SessionStore.Written, SessionStore.SessionStoreError> => {
    const { id, json, owner, stamped, ttl, watched } = entry
    const refusal: SessionStore.Written = { _tag: method === "set" ? "Gone" : "Exists" }
    const flags = (watched ? 1 : 0) + (stamped ? 2 : 0)
    if (owner === undefined) {
      return Clock.clockWith((clock) =>
        Effect.mapBoth(client.run(scripts[method], keys(id), [json, ttl, flags]), {
          onSuccess: (reply) => {
            const result = writtenAs(reply, refusal)
            if (result._tag === "Written") indexedAt(id, undefined, ttl, clock.unsafeCurrentTimeMillis())
            return result
          },
          onFailure: fails(method)
        })
      )
    }
    if (oneNode) {
      const owned = method === "set" ? scripts.setOwned : scripts.createOwned
      return Effect.flatMap(Clock.currentTimeMillis, (now) =>
        Effect.mapBoth(
          client.run(owned, [key(id), tombstoneKey(id), indexKey(owner)], [json, ttl, flags, id, indexTtl, owner]),
          {
            onSuccess: (reply) => {
              const result = writtenAs(reply, refusal)
              if (result._tag === "Written") indexedAt(id, owner, ttl, now)
              return result
            },
            onFailure: fails(method)
          }
        )
      )
    }
    const step: RedisClient.ScriptStep = { script: scripts[method], keys: keys(id), args: [json, ttl, flags] }
    const inOneGo = Effect.map(indexedWrite(method, { id, owner, ttl }, step), (reply) => writtenAs(reply, refusal))
    return limited ? limitedWrite(method, entry, owner, flags) : inOneGo
  }

  /**
   * A `set` of a session that this process knows: one plain command, for what is there was not deleted (a deletion takes
   * the session and leaves the tombstone in one step). Whose it was says the text that comes back: its writer has
   * indexed it for that owner. Whatever is not as expected goes the long way.
   */
  const set = (entry: SessionStore.Entry): Effect.Effect<SessionStore.Written, SessionStore.SessionStoreError> => {
    const { id, json, owner, ttl, watched } = entry
    if (watched || limited || absolute !== undefined) return write("set", entry)
    return Clock.clockWith((clock) => {
      const now = clock.unsafeCurrentTimeMillis()
      const known = freshOf(id, ttl, now)
      if (known === undefined) return write("set", entry)
      if (owner === undefined) {
        return Effect.matchEffect(client.send("SET", key(id), json, "PX", ttl, "XX"), {
          onSuccess: (reply) => (reply === null ? write("set", entry) : succeedWritten),
          onFailure: (error) => Effect.fail(fails("set")(error))
        })
      }
      const beginning = `{"user_id":${JSON.stringify(owner)},`
      if (!isLately(known, owner, now) || !json.startsWith(beginning)) return write("set", entry)
      known.isUnsure = true
      return Effect.matchEffect(client.send("SET", key(id), json, "PX", ttl, "XX", "GET"), {
        onSuccess: (before): Effect.Effect<SessionStore.Written, SessionStore.SessionStoreError> => {
          if (typeof before !== "string") return write("set", entry)
          if (before.startsWith(beginning)) {
            known.isUnsure = false
            return succeedWritten
          }
          // it was another's meanwhile, or is written by another program. It is written, and others may have changed it
          // since: only its index entry is missing
          return Effect.matchEffect(Effect.flatMap(client.sendMany([own(owner, id, ttl)]), StoreErrors.allReplies), {
            onSuccess: () => {
              indexedAt(id, owner, ttl, now)
              return succeedWritten
            },
            onFailure: (error) => Effect.fail(unindexed("set", error, true))
          })
        },
        onFailure: (error) =>
          // what holds another type of value is written over
          error.reason === "WrongType" ? write("set", entry) : Effect.fail(fails("set")(error))
      })
    })
  }

  /** A write under a limit on a cluster. */
  const limitedWrite = (
    method: "set" | "create",
    { id, json, ttl }: SessionStore.Entry,
    owner: string,
    flags: number
  ): Effect.Effect<SessionStore.Written, SessionStore.SessionStoreError> => {
    const refusal: SessionStore.Written = { _tag: method === "set" ? "Gone" : "Exists" }
    const mayWrite =
      method === "create"
        ? client.run(Scripts.clear, keys(id), [])
        : Effect.map(client.send("EXISTS", tombstoneKey(id)), (reply) => (reply === 0 ? 1 : 0))
    const session = client.run(method === "set" ? scripts.set : scripts.createUnlessBuried, keys(id), [
      json,
      ttl,
      flags
    ])
    const index = Effect.flatMap(client.sendMany([own(owner, id, ttl)]), StoreErrors.allReplies)

    const place = (
      evicted: ReadonlyArray<string>
    ): Effect.Effect<SessionStore.Written, SessionStore.SessionStoreError> =>
      Effect.flatMap(Effect.mapError(session, fails(method)), (reply) => {
        // it was evicted (or deleted) before it was written: it was there, and it is gone
        const isBuried = reply === (method === "set" ? 0 : -1)
        if (isBuried) return Effect.succeed<SessionStore.Written>({ _tag: "Written", isNew: true, evicted })
        const result = writtenAs(reply, refusal)
        if (result._tag !== "Written") return Effect.succeed<SessionStore.Written>(result)
        // once more: who found an entry without a session meanwhile may have dropped it
        return Effect.mapBoth(index, {
          onSuccess: (): SessionStore.Written => ({ ...result, evicted }),
          onFailure: (error) => unindexed(method, error, true)
        })
      })

    // between the index and the session nobody leaves
    return Effect.uninterruptible(
      Effect.flatMap(
        Effect.mapError(mayWrite, fails(method)),
        (may): Effect.Effect<SessionStore.Written, SessionStore.SessionStoreError> =>
          may === 1
            ? Effect.flatMap(admit(method, id, owner, ttl), (evicted) =>
                evicted === undefined ? Effect.succeed<SessionStore.Written>({ _tag: "Limit" }) : place(evicted)
              )
            : Effect.succeed(refusal)
      )
    )
  }

  const replaced = (reply: RedisClient.Reply): SessionStore.Replaced => {
    if (typeof reply === "string") return { _tag: "Changed", current: reply }
    if (Array.isArray(reply)) return { _tag: "Done", evicted: texts(reply.slice(1)) }
    if (reply === -2) return { _tag: "Limit" }
    if (reply === -1) return { _tag: "Gone" }
    return typeof reply === "number" && reply > 0 ? { _tag: "Done" } : { _tag: "Absent" }
  }

  /** What the compare-and-set of every day says: where there is no session, the tombstone is looked for. */
  const keeping = (id: string) => ({
    onSuccess: (reply: RedisClient.Reply): Effect.Effect<SessionStore.Replaced, SessionStore.SessionStoreError> => {
      if (reply === 1) return succeedDone
      if (typeof reply === "string") return Effect.succeed<SessionStore.Replaced>({ _tag: "Changed", current: reply })
      return Effect.map(isGone(id), (gone): SessionStore.Replaced => ({ _tag: gone ? "Gone" : "Absent" }))
    },
    onFailure: (error: RedisError) => Effect.fail(fails("update")(error))
  })

  const isGone = (id: string): Effect.Effect<boolean, SessionStore.SessionStoreError> =>
    Effect.mapBoth(client.send("EXISTS", tombstoneKey(id)), {
      onSuccess: (reply) => reply === 1,
      onFailure: (error) => notDone(fails("update")(error))
    })

  const replace = (
    replacement: SessionStore.Replacement
  ): Effect.Effect<SessionStore.Replaced, SessionStore.SessionStoreError> => {
    const { expected, id, json, owner, previousOwner, ttl } = replacement
    const hashed = expected.length >= hashedFrom
    const args = [hashed ? sha1(expected) : expected, json, ttl ?? 0]
    const plain: RedisClient.ScriptStep = {
      script: hashed ? scripts.replaceHashed : scripts.replace,
      keys: keys(id),
      args
    }
    const run =
      ttl === undefined && absolute === undefined && !hashed
        ? Effect.matchEffect(client.run(scripts.replaceKeeping, [key(id)], [expected, json]), keeping(id))
        : Effect.mapBoth(client.run(plain.script, plain.keys, plain.args), {
            onSuccess: replaced,
            onFailure: fails("update")
          })
    if (owner === undefined) return run
    if (oneNode) {
      return Clock.clockWith((clock) => {
        const now = clock.unsafeCurrentTimeMillis()
        // it is indexed, and has been this owner's since
        if (owner === previousOwner && isLately(freshOf(id, ttl ?? 0, now), owner, now)) return run
        const before = previousOwner === undefined || previousOwner === owner ? [] : [indexKey(previousOwner)]
        return Effect.mapBoth(
          client.run(
            hashed ? scripts.replaceOwnedHashed : scripts.replaceOwned,
            [key(id), tombstoneKey(id), indexKey(owner), ...before],
            [...args, id, indexTtl, owner]
          ),
          {
            onSuccess: (reply) => {
              const result = replaced(reply)
              if (result._tag === "Done") indexedAt(id, owner, ttl ?? 0, now)
              return result
            },
            onFailure: fails("update")
          }
        )
      })
    }
    const inOneGo = Effect.flatMap(indexedWrite("update", { id, owner, ttl: ttl ?? 0 }, plain), (reply) => {
      const result = replaced(reply)
      // the session lives on for so many milliseconds: longer than the index, if it has a new owner
      if (typeof reply !== "number" || reply <= indexTtl / 2) return Effect.succeed(result)
      return Effect.mapBoth(Effect.flatMap(client.sendMany([own(owner, id, reply)]), StoreErrors.allReplies), {
        onSuccess: () => result,
        onFailure: (error) => unindexed("update", error, true)
      })
    })
    if (!limited || owner === previousOwner) return inOneGo
    return Effect.flatMap(admit("update", id, owner, ttl ?? 0), (evicted) =>
      evicted === undefined
        ? Effect.succeed<SessionStore.Replaced>({ _tag: "Limit" })
        : Effect.map(inOneGo, (result) => (result._tag === "Done" ? { ...result, evicted } : result))
    )
  }

  const rotated = (reply: RedisClient.Reply): SessionStore.Rotated => {
    if (typeof reply === "string") return { _tag: "Changed", current: reply }
    switch (reply) {
      case 1:
        return { _tag: "Done" }
      case -1:
        return { _tag: "Gone" }
      case 2:
        return { _tag: "Taken" }
      default:
        return { _tag: "Absent" }
    }
  }

  const rotateOnOneNode = ({ expected, from, owner, to, tombstone }: SessionStore.Rotation) =>
    Effect.flatMap(
      Effect.mapError(
        client.run(
          Scripts.rotate,
          [...keys(from), ...keys(to), ...(owner === undefined ? [] : [indexKey(owner)])],
          [tombstone, sha1(expected), from, to, indexTtl]
        ),
        fails("rotate")
      ),
      (reply): Effect.Effect<SessionStore.Rotated> => {
        const result = rotated(reply)
        if (result._tag !== "Done") return Effect.succeed(result)
        indexedUntil.delete(from)
        return Effect.as(indexed(to, owner, 0), result)
      }
    )

  /**
   * Over two nodes: the new id is written, then the old one dies by its tombstone. What fails between the two is undone
   * where it is known to have failed, and reported.
   */
  const rotateOverNodes = (
    rotation: SessionStore.Rotation
  ): Effect.Effect<SessionStore.Rotated, SessionStore.SessionStoreError> => {
    const { expected, from, owner, to, tombstone } = rotation
    const digest = sha1(expected)
    const nothingMoved = (error: RedisError) => notDone(fails("rotate")(error))
    const halfDone = (error: RedisError, what: string) =>
      new SessionStore.SessionStoreError({
        reason: StoreErrors.reasonOf(error),
        method: "rotate",
        description: `${what}: ${StoreErrors.descriptionOf(error)}`,
        outcome: "unknown",
        cause: error
      })
    const takeBack = Effect.mapError(client.run(Scripts.dropText, [key(to)], [digest]), (error) =>
      halfDone(error, "the session was copied to its new id, and the copy could not be taken back")
    )
    const retire = (score: number) =>
      Effect.matchEffect(client.run(Scripts.retire, keys(from), [tombstone, digest]), {
        onFailure: (error): Effect.Effect<SessionStore.Rotated, SessionStore.SessionStoreError> =>
          error.outcome === "unknown"
            ? Effect.fail(halfDone(error, "the session was copied to its new id, and the old one may be alive still"))
            : Effect.zipRight(takeBack, Effect.fail(nothingMoved(error))),
        onSuccess: (reply): Effect.Effect<SessionStore.Rotated, SessionStore.SessionStoreError> => {
          const result = rotated(reply)
          if (result._tag !== "Done") return Effect.as(takeBack, result)
          indexedUntil.delete(from)
          if (owner === undefined) return Effect.succeed(result)
          // an entry too many heals by itself
          const forget = client.sendMany([{ script: Scripts.moved, keys: [indexKey(owner)], args: [from, to, score] }])
          return Effect.zipRight(forget, Effect.as(indexed(to, owner, 0), result))
        }
      })
    const move = (score: number) =>
      Effect.flatMap(
        Effect.mapError(client.run(Scripts.beginMove, keys(from), [digest]), nothingMoved),
        (reply): Effect.Effect<SessionStore.Rotated, SessionStore.SessionStoreError> => {
          if (typeof reply !== "number" || (reply <= 0 && reply !== -3)) return Effect.succeed(rotated(reply))
          const placed = client.run(limited ? Scripts.placeUnlessBuried : Scripts.place, keys(to), [
            expected,
            reply === -3 ? defaultTtl : reply
          ])
          return Effect.uninterruptible(
            Effect.flatMap(
              Effect.mapError(placed, (error) =>
                error.outcome === "unknown"
                  ? halfDone(error, "the session may have been copied to its new id, and the old one is alive")
                  : nothingMoved(error)
              ),
              (free) => (free === 1 ? retire(score) : Effect.succeed({ _tag: "Taken" }))
            )
          )
        }
      )
    if (owner === undefined) return move(0)
    // first the index, awaited: a session that is moved and not indexed could not be signed out
    const follows = (score: number) =>
      Effect.mapError(client.run(Scripts.follow, [indexKey(owner)], [from, to, indexTtl, score]), nothingMoved)
    // with a limit a tombstone of the new id is to say that it gave way since
    const cleared = limited
      ? Effect.asVoid(Effect.mapError(client.send("DEL", tombstoneKey(to)), nothingMoved))
      : Effect.void
    return Effect.flatMap(scoreOf(2), (score) => Effect.zipRight(cleared, Effect.zipRight(follows(score), move(score))))
  }

  return {
    get: (id) => Effect.mapBoth(client.send("GET", key(id)), toTextOfGet),
    getAndTouch: (id, asked) => touching(id, asked.ttl, () => touch(id, asked), toText),
    set,
    create: (entry) => write("create", entry),
    replace,
    isGone,
    delete: (ids, tombstone, method) =>
      Effect.flatMap(
        Effect.mapError(removeAll(ids, tombstone), (error) => {
          const failed = fails(method)(error)
          // some of several can be deleted, though this one is known not to be
          return ids.length === 1 ? failed : withOutcome(failed, "unknown")
        }),
        (replies) => {
          const steps: Array<RedisClient.Step> = []
          const were = ids.map((id, index) => {
            const reply = replies[index]
            indexedUntil.delete(id)
            const owner = typeof reply === "string" ? SessionStore.ownerIn(reply) : undefined
            if (owner !== undefined) steps.push({ script: Scripts.leave, keys: [indexKey(owner)], args: [id] })
            return reply === 1 || typeof reply === "string"
          })
          // what fails here heals later
          return steps.length === 0 ? Effect.succeed(were) : Effect.as(client.sendMany(steps), were)
        }
      ),
    exists: (id) =>
      Effect.mapBoth(client.send("EXISTS", key(id)), {
        onSuccess: (reply) => reply === 1,
        onFailure: fails("exists")
      }),
    extendTtl: (id, ttl, exact) =>
      touching(
        id,
        ttl,
        (fresh) => client.run(scripts.extendTtl, [key(id)], [ttl, ttl, exact ? 1 : 0, fresh ? 0 : 1]),
        toThere
      ),
    rotate: (rotation) => (oneNode ? rotateOnOneNode(rotation) : rotateOverNodes(rotation)),
    owned: (owner) =>
      Effect.mapError(
        Effect.flatMap(client.send("ZRANGE", indexKey(owner), 0, -1), (reply) =>
          read(texts(reply).filter((one) => !one.startsWith(Scripts.mark)))
        ),
        fails("sessionsOf")
      ),
    disown: (owner, ids) =>
      ids.length === 0
        ? Effect.void
        : Effect.mapError(
            Effect.asVoid(Effect.flatMap(client.sendMany([disown(owner, ids)]), StoreErrors.allReplies)),
            fails("sessionsOf")
          ),
    cleanUp: (options) => Effect.mapError(cleanUp(client, options), fails("cleanUp"))
  }
}

const noIds: ReadonlyArray<string> = []
const noArgs: ReadonlyArray<string> = []
const written: SessionStore.Written = { _tag: "Written", isNew: false, evicted: noIds }
const succeedDone = Effect.succeed<SessionStore.Replaced>({ _tag: "Done" })
const succeedWritten = Effect.succeed(written)
const writtenNew: SessionStore.Written = { _tag: "Written", isNew: true, evicted: noIds }

/** Keys that one step of a scan looks at, and sessions whose texts are fetched in one go. */
const scanned = 500
const fetched = 50

/** Goes through the keys of every node, a page at a time. The cursor is the node and the node's own cursor. */
const cleanUp = (
  client: RedisClient.Service,
  { cursor, isSession, limit, ttl }: Parameters<SessionStore.Backend["cleanUp"]>[0]
): Effect.Effect<SessionStore.CleanUpReport, RedisError> =>
  Effect.gen(function* () {
    const nodes = [...(yield* client.nodes)].sort((a, b) => (a.id < b.id ? -1 : 1))
    const [, place = "0", id = ""] = /^(\d+) (.*)$/.exec(cursor ?? "") ?? []
    let at = Math.max(
      0,
      nodes.findIndex((node) => node.id === id)
    )
    let position = nodes[at]?.id === id ? place : "0"
    let left = limit
    const total = { scanned: 0, corrupt: 0, orphaned: 0, immortal: 0 }
    for (let node = nodes[at]; node !== undefined; node = nodes[at]) {
      const count = Math.min(scanned, left)
      const reply = yield* node.send("SCAN", position, "MATCH", "session*", "COUNT", count)
      const [next, page] = Array.isArray(reply) ? reply : []
      position = typeof next === "string" ? next : "0"
      const found = texts(page ?? null)
      const prefix = Scripts.key("")
      const ids = found.filter((one) => one.startsWith(prefix)).map((one) => one.slice(prefix.length))
      // not ours: no session has such an id
      const done = yield* tidy(
        client,
        ids.filter((one) => !/[{}]/.test(one)),
        ttl,
        isSession
      )
      total.scanned += found.length
      total.corrupt += done.corrupt
      total.immortal += done.immortal
      const indexPrefix = Scripts.indexKey("")
      for (const one of found) {
        if (one.startsWith(indexPrefix)) total.orphaned += yield* tidyIndex(client, one)
      }
      if (position === "0") at++
      left -= count
      if (left <= 0 && nodes[at] !== undefined) return { ...total, cursor: `${position} ${nodes[at]?.id ?? ""}` }
    }
    return total
  })

/** Removes what is no session from these ids, and gives those without a time to live one. */
const tidy = (
  client: RedisClient.Service,
  ids: ReadonlyArray<string>,
  ttl: number,
  isSession: (json: string) => boolean
): Effect.Effect<{ readonly corrupt: number; readonly immortal: number }, RedisError> =>
  Effect.gen(function* () {
    const suspects: Array<string> = []
    const otherTypes: Array<string> = []
    const immortals: Array<string> = []
    for (const piece of StoreErrors.pieces(ids, fetched)) {
      const results = yield* client.sendMany(
        piece.flatMap(
          (id): ReadonlyArray<RedisClient.Step> => [
            ["GET", key(id)],
            ["PTTL", key(id)]
          ]
        )
      )
      for (const [index, id] of piece.entries()) {
        const [json, left] = [results[index * 2], results[index * 2 + 1]]
        if (json === undefined || left === undefined) return yield* Effect.die("sendMany answers every step")
        if (Either.isLeft(json)) {
          if (json.left.reason !== "WrongType") return yield* json.left
          otherTypes.push(id)
        } else if (typeof json.right === "string") {
          if (!isSession(json.right)) suspects.push(id)
          else if (Either.isRight(left) && left.right === -1) immortals.push(id)
        }
      }
    }
    const run = (
      script: RedisClient.Script,
      of: ReadonlyArray<readonly [id: string, ...args: Array<string | number>]>
    ) =>
      Effect.flatMap(
        client.sendMany(of.map(([id, ...args]) => ({ script, keys: [key(id)], args }))),
        StoreErrors.allReplies
      )
    const count = (replies: ReadonlyArray<RedisClient.Reply>) => replies.filter((reply) => reply === 1).length
    // what is looked at again may have been written over meanwhile: it goes only as it was seen
    const again = yield* run(
      Scripts.readText,
      suspects.map((id) => [id] as const)
    )
    const dead = suspects.flatMap((id, index) => {
      const [json, digest] = texts(again[index] ?? null)
      return json === undefined || digest === undefined || isSession(json) ? [] : [[id, digest] as const]
    })
    const dropped = count(yield* run(Scripts.dropText, dead))
    const others = count(
      yield* run(
        Scripts.dropOtherType,
        otherTypes.map((id) => [id] as const)
      )
    )
    const immortal = count(
      yield* run(
        Scripts.mortal,
        immortals.map((id) => [id, ttl] as const)
      )
    )
    return { corrupt: dropped + others, immortal }
  })

/** Drops the entries of an index whose session is not there. */
const tidyIndex = (client: RedisClient.Service, index: string): Effect.Effect<number, RedisError> =>
  Effect.gen(function* () {
    const reply = yield* Effect.catchIf(
      client.send("ZRANGE", index, 0, -1),
      (error) => error.reason === "WrongType",
      () => Effect.succeed(null)
    )
    const ids = texts(reply).filter((one) => !one.startsWith(Scripts.mark))
    let dropped = 0
    for (const piece of StoreErrors.pieces(ids, scanned)) {
      const there = yield* Effect.flatMap(
        client.sendMany(piece.map((id) => ["EXISTS", key(id)] as const)),
        StoreErrors.allReplies
      )
      const dead = piece.filter((_, position) => there[position] === 0)
      if (dead.length === 0) continue
      const count = yield* client.run(Scripts.disown, [index], dead)
      if (typeof count === "number") dropped += count
    }
    return dropped
  })

const notDone = (error: SessionStore.SessionStoreError): SessionStore.SessionStoreError =>
  withOutcome(error, "not-done")

const withOutcome = (
  { cause, description, method, reason }: SessionStore.SessionStoreError,
  outcome: "not-done" | "unknown"
): SessionStore.SessionStoreError =>
  new SessionStore.SessionStoreError({
    reason,
    method,
    description,
    outcome,
    ...(cause === undefined ? {} : { cause })
  })
