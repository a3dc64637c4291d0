/**
 * Locks in Redis: exclusive, read and write, counting, fair. One round trip to take one that is free and one to give it
 * back; who waits is woken by a message and looks again now and then all the same; all times are the server's. Every key
 * of a lock is in one slot of a cluster and has a time to live. Plain effects.
 *
 * @since 0.1.0
 */
import * as Lock from "@underlay/core/state/Lock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Scripts from "./internal/lockScripts.ts"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * Options of the locks.
 *
 * **Fencing tokens.** A token is the server's time in microseconds when the lock was granted, and at least one more than
 * the one before. So tokens go on where the lock has expired, where its fence has (`fenceTtl`), and after `FLUSHALL`. They
 * go on after a fail-over too, as long as the new master's clock is not behind the old one's by more than the fail-over
 * took: keep the clocks of the servers in step.
 *
 * **Fail-over.** Redis replicates behind the caller's back: a master that dies can take a lock with it that it has just
 * granted, and the new one may then grant it again. The old holder is interrupted as soon as the new master is asked
 * (within `watch`, once it is reached); in between there are two, and only a resource that checks tokens tells them apart.
 * `waitReplicas` makes that rarer.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends Lock.Options {
  /**
   * How long the last token of a lock is remembered, from the last time that it was granted. It matters only where the
   * server's clock is set back meanwhile. Default: 1 day.
   */
  readonly fenceTtl?: Duration.DurationInput | undefined
  /**
   * A lock counts as had when so many replicas have confirmed it (`WAIT`); when they do not in time it is given back, and
   * the attempt fails as `Unavailable`. Each attempt then takes an isolated connection, since `WAIT` holds up a
   * connection. Renewals do not wait. Default: 0, no waiting.
   */
  readonly waitReplicas?: number | undefined
  /** How long to wait for the replicas: at most a third of the lock's time to live. Default: 500 milliseconds. */
  readonly waitReplicasTimeout?: Duration.DurationInput | undefined
}

/**
 * The locks of core on the Redis client. Fails on options that cannot be.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<Lock.Lock, Lock.LockError, RedisClient.RedisClient> =>
  Layer.scoped(
    Lock.Lock,
    Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options))
  )

/**
 * The locks as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  client: RedisClient.Service,
  options: Options = {}
): Effect.Effect<Lock.Service, Lock.LockError, Scope.Scope> =>
  Effect.gen(function* () {
    const fenceTtl = yield* millis("fenceTtl", options.fenceTtl ?? "1 day")
    const timeout = yield* millis("waitReplicasTimeout", options.waitReplicasTimeout ?? "500 millis")
    const replicas = options.waitReplicas ?? 0
    if (!(Number.isSafeInteger(replicas) && replicas >= 0)) {
      return yield* invalid("waitReplicas must be a whole number, at least 0")
    }
    return yield* Lock.make(backend(client, fenceTtl, replicas, timeout), options)
  })

/**
 * A script that a resource is guarded with: it is run only by the holder of the latest fencing token that the resource
 * has seen. Run it with `fencedRun`. `KEYS` and `ARGV` have more at their ends than what was given.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fencedScript = (name: string, source: string): RedisClient.Script =>
  RedisClient.script(name, `${Scripts.guard}${source}`)

/**
 * Runs a script of `fencedScript` with the token of the lock that is held. The resource is the first of the keys: beside
 * it is kept which token it has seen last, for a day. Fails as `Stale` when somebody with a later one was there before,
 * and nothing is done then. All keys must share one slot on a cluster.
 *
 * @since 0.1.0
 * @category combinators
 */
export const fencedRun = (
  client: Pick<RedisClient.Service, "run">,
  script: RedisClient.Script,
  keys: readonly [string, ...ReadonlyArray<string>],
  args: ReadonlyArray<RedisClient.RedisArgument>
): Effect.Effect<RedisClient.Reply, Lock.LockError, Lock.FencingToken> => fencedFor(client, script, keys, args, markTtl)

/**
 * Writes a value for as long as `ttl`, unless somebody with a later fencing token was there before (`Stale`). A value that
 * was made of what was there before has to be read with the token too: see `fencedRun`.
 *
 * ```ts
 * const program = lock.withLock("report")(RedisLock.fencedSet(client, "report:latest", text, "1 hour"))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const fencedSet = (
  client: Pick<RedisClient.Service, "run">,
  key: string,
  value: string | Uint8Array,
  ttl: Duration.DurationInput
): Effect.Effect<void, Lock.LockError, Lock.FencingToken> =>
  Effect.flatMap(millis("ttl", ttl), (time) =>
    // who is late is told so for at least as long as there is something to overwrite
    Effect.asVoid(fencedFor(client, setScript, [key], [value, time], Math.max(time, markTtl)))
  )

const setScript = fencedScript("lock.fencedSet", "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])")

/** How long a resource remembers the last token: longer than any holder can be late. */
const markTtl = 24 * 60 * 60 * 1000

const fencedFor = (
  client: Pick<RedisClient.Service, "run">,
  script: RedisClient.Script,
  keys: readonly [string, ...ReadonlyArray<string>],
  args: ReadonlyArray<RedisClient.RedisArgument>,
  ttl: number
): Effect.Effect<RedisClient.Reply, Lock.LockError, Lock.FencingToken> =>
  Effect.flatMap(Lock.FencingToken, ({ token }) =>
    Effect.mapError(client.run(script, [...keys, markOf(keys[0])], [...args, ttl, String(token)]), (error) =>
      error.code === "STALE"
        ? new Lock.LockError({
            reason: "Stale",
            method: script.name,
            description: "the resource has seen a later fencing token",
            outcome: "not-done"
          })
        : failure(script.name, error)
    )
  )

/** Where a resource's last token is kept: in the slot of the resource. */
const markOf = (key: string): string => (/\{[^}]+\}/.test(key) ? `${key}:fenced` : `{${key}}:fenced`)

const failure = (method: string, error: RedisError): Lock.LockError =>
  new Lock.LockError({
    reason: StoreErrors.reasonOf(error),
    method,
    description: StoreErrors.descriptionOf(error),
    outcome: StoreErrors.outcomeOf(error),
    cause: error
  })

const invalid = (description: string): Lock.LockError =>
  new Lock.LockError({ reason: "InvalidOptions", method: "make", description, outcome: "not-done" })

const millis = (name: string, input: Duration.DurationInput): Effect.Effect<number, Lock.LockError> => {
  const decoded = Duration.decodeUnknown(input)
  const value = Option.isNone(decoded) ? Number.NaN : Math.ceil(Duration.toMillis(decoded.value))
  return value > 0 && value <= longest
    ? Effect.succeed(value)
    : Effect.fail(invalid(`${name} must be a duration longer than zero and at most a century`))
}

const longest = 100 * 366 * 24 * 60 * 60 * 1000

const lockKey = ({ key, kind }: Pick<Lock.Request, "kind" | "key">): string =>
  kind === "permit" ? `semaphore:${key}` : `lock:${key}`

const backend = (
  client: RedisClient.Service,
  fenceTtl: number,
  replicas: number,
  replicasTimeout: number
): Lock.Backend => {
  const step = (request: Lock.Request, patience: number): RedisClient.ScriptStep => {
    const lock = lockKey(request)
    const part = `{${lock}}:`
    const { fair, kind, owner, permits, ttl } = request
    if (kind === "permit") {
      return {
        script: Scripts.takePermit,
        keys: [lock, `${part}fence`, `${part}waiting`, `${part}queue`],
        args: [owner, ttl, fenceTtl, patience, permits, fair ? 1 : 0]
      }
    }
    return {
      script: Scripts.takeInOrder,
      keys: [lock, `${part}fence`, `${part}readers`, `${part}waiting`, `${part}writer`, `${part}queue`],
      args: [owner, ttl, fenceTtl, patience, kind === "exclusive" ? "x" : "s", fair ? 1 : 0]
    }
  }

  const attempt = (reply: RedisClient.Reply): Effect.Effect<Lock.Attempt, Lock.LockError> => {
    if (typeof reply === "number" && reply > 0) return Effect.succeed({ _tag: "Granted", token: BigInt(reply) })
    if (typeof reply === "number" && reply < 0) return Effect.succeed({ _tag: "Refused", retryAfter: -reply })
    return Effect.fail(unreadable())
  }

  const inOrder = (
    runner: Pick<RedisClient.Service, "run">,
    request: Lock.Request,
    patience: number
  ): Effect.Effect<Lock.Attempt, Lock.LockError> => {
    const { args, keys, script } = step(request, patience)
    return Effect.matchEffect(runner.run(script, keys, args), {
      onFailure: fails("acquire"),
      onSuccess: attempt
    })
  }

  const acquire = (
    runner: Pick<RedisClient.Service, "run">,
    request: Lock.Request,
    patience: number
  ): Effect.Effect<Lock.Attempt, Lock.LockError> => {
    if (request.kind !== "exclusive" || request.fair || patience > 0) return inOrder(runner, request, patience)
    const lock = lockKey(request)
    const keys = [lock, `{${lock}}:fence`, `{${lock}}:readers`, `{${lock}}:queue`]
    return Effect.matchEffect(runner.run(Scripts.take, keys, [request.owner, request.ttl, fenceTtl]), {
      onFailure: fails("acquire"),
      onSuccess: (reply) => (reply === 0 ? inOrder(runner, request, patience) : attempt(reply))
    })
  }

  /** On a connection of its own: `WAIT` is about what its own connection has written, and holds it up. */
  const acquireReplicated = (request: Lock.Request, patience: number): Effect.Effect<Lock.Attempt, Lock.LockError> =>
    Effect.scoped(
      Effect.flatMap(Effect.mapError(client.isolated({ key: lockKey(request) }), toFailure("acquire")), (connection) =>
        Effect.flatMap(
          acquire(connection, request, patience),
          (result): Effect.Effect<Lock.Attempt, Lock.LockError> => {
            if (result._tag === "Refused") return Effect.succeed(result)
            const timeout = Math.max(1, Math.floor(Math.min(replicasTimeout, request.ttl / 3)))
            return Effect.matchEffect(connection.block(timeout, "WAIT", replicas, timeout), {
              onFailure: (error) => Effect.fail(unconfirmed(error)),
              onSuccess: (reply) =>
                typeof reply === "number" && reply >= replicas ? Effect.succeed(result) : Effect.fail(unconfirmed())
            })
          }
        )
      )
    )

  return {
    acquire: replicas === 0 ? (request, patience) => acquire(client, request, patience) : acquireReplicated,
    release: (request) => {
      const lock = lockKey(request)
      const part = `{${lock}}:`
      const freed =
        request.kind === "exclusive"
          ? client.run(Scripts.release, [lock, `${part}waiting`, `${part}queue`], [request.owner])
          : client.run(Scripts.releaseShare, [setOf(request), `${part}waiting`, `${part}queue`, lock], [request.owner])
      return Effect.matchEffect(freed, {
        onFailure: fails("release"),
        onSuccess: (reply) => (reply === 1 ? yes : no)
      })
    },
    abandon: (request) => {
      const lock = lockKey(request)
      const part = `{${lock}}:`
      const gone =
        request.kind === "permit"
          ? client.run(Scripts.abandonPermit, [lock, `${part}waiting`, `${part}queue`], [request.owner])
          : client.run(
              Scripts.abandon,
              [lock, `${part}readers`, `${part}waiting`, `${part}queue`, `${part}writer`],
              [request.owner, request.kind === "exclusive" && !request.fair ? "x" : "s"]
            )
      return Effect.mapBoth(gone, { onFailure: toFailure("abandon"), onSuccess: () => undefined })
    },
    renew: (requests) =>
      ask(
        client,
        "renew",
        requests,
        (request) => ({
          script: request.kind === "exclusive" ? Scripts.renew : Scripts.renewShare,
          keys: [request.kind === "exclusive" ? lockKey(request) : setOf(request)],
          args: [request.owner, request.ttl]
        }),
        (_, reply) => reply === 1
      ),
    check: (requests) =>
      ask(
        client,
        "check",
        requests,
        (request) =>
          request.kind === "exclusive" ? ["GET", lockKey(request)] : ["ZSCORE", setOf(request), request.owner],
        (request, reply) => (request.kind === "exclusive" ? reply === request.owner : reply !== null)
      ),
    listen: (request, listener) =>
      Effect.mapError(
        client.listen([`{${lockKey(request)}}:wake`], (event) => {
          switch (event._tag) {
            case "Message":
              return listener.wake(event.payload === "" ? undefined : event.payload)
            case "Ready":
              return listener.ready()
            case "Lost":
              return listener.lost()
          }
        }),
        toFailure("listen")
      )
  }
}

const yes = Effect.succeed(true)
const no = Effect.succeed(false)

const toFailure =
  (method: string) =>
  (error: RedisError): Lock.LockError =>
    failure(method, error)

const fails =
  (method: string) =>
  (error: RedisError): Effect.Effect<never, Lock.LockError> =>
    Effect.fail(failure(method, error))

/** Where a share of a lock is held. */
const setOf = (request: Lock.Request): string =>
  request.kind === "permit" ? lockKey(request) : `{${lockKey(request)}}:readers`

const unreadable = () =>
  new Lock.LockError({
    reason: "Rejected",
    method: "acquire",
    description: "the server gave another answer than the script's",
    outcome: "unknown"
  })

const unconfirmed = (cause?: RedisError): Lock.LockError =>
  new Lock.LockError({
    reason: "Unavailable",
    method: "acquire",
    description: "too few replicas confirmed the lock in time",
    // it was granted: it has to be given back
    outcome: "unknown",
    ...(cause === undefined ? {} : { cause })
  })

/** Asks about several locks in one go, 500 at a time. */
const ask = (
  client: RedisClient.Service,
  method: string,
  requests: ReadonlyArray<Lock.Request>,
  question: (request: Lock.Request) => RedisClient.Step,
  read: (request: Lock.Request, reply: RedisClient.Reply) => boolean
): Effect.Effect<ReadonlyArray<Either.Either<boolean, Lock.LockError>>> =>
  Effect.map(
    Effect.forEach(StoreErrors.pieces(requests, 500), (piece) =>
      Effect.map(client.sendMany(piece.map(question)), (results) =>
        piece.map((request, index) => {
          const result = results[index]
          if (result === undefined) return Either.left(unreadable())
          return Either.mapBoth(result, {
            onLeft: toFailure(method),
            onRight: (reply) => read(request, reply)
          })
        })
      )
    ),
    (found) => found.flat()
  )
