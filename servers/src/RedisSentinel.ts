/**
 * A real master with its replicas, watched by real Sentinels, on loopback. The master is killed and a replica promoted
 * within a few seconds: the Sentinels look, ask and tell more often than they do by default.
 */
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { Certificates } from "./internal/certificates.ts"
import * as Machine from "./internal/machine.ts"
import type * as Resp from "./internal/resp.ts"
import * as RedisServer from "./RedisServer.ts"

/** Options of a watched master. */
export interface RedisSentinelOptions {
  /** How many replicas the master has. Default: 2. */
  readonly replicas?: number | undefined
  /** How many Sentinels there are. Default: 3. */
  readonly sentinels?: number | undefined
  /** How many of them must agree that the master is down. Default: 2. */
  readonly quorum?: number | undefined
  /** How long the master must be silent to be down for a Sentinel, in milliseconds. Default: 1000. */
  readonly downAfter?: number | undefined
  /** The name by which the Sentinels know the master. Default: `main`. */
  readonly name?: string | undefined
  /** The password of the master and its replicas. */
  readonly password?: string | undefined
  /** The password of the Sentinels. */
  readonly sentinelPassword?: string | undefined
  /** Only TLS is spoken, by the Sentinels too. */
  readonly tls?: boolean | undefined
  /** Writes survive `kill` and `start`. */
  readonly appendOnly?: boolean | undefined
  /** Further arguments of the master and its replicas. */
  readonly arguments?: ReadonlyArray<string> | undefined
}

/** A watched master. */
export interface RedisSentinel {
  /** The name by which the Sentinels know the master. */
  readonly master: string
  readonly sentinels: ReadonlyArray<RedisServer.RedisServer>
  /** The servers that hold the data: the first master, then its replicas. */
  readonly servers: ReadonlyArray<RedisServer.RedisServer>
  readonly password: string | undefined
  readonly sentinelPassword: string | undefined
  /** What a client needs to speak TLS with them. */
  readonly certificates: Certificates | undefined
  /** The master of now, on which the living Sentinels agree. */
  readonly masterServer: Effect.Effect<RedisServer.RedisServer, RedisServer.RedisServerError>
  /** Kills the master and returns when all Sentinels name another one and it takes writes. Gives the new master. */
  readonly failover: Effect.Effect<RedisServer.RedisServer, RedisServer.RedisServerError>
  /** Has the Sentinels promote a replica while the master lives, which becomes a replica. Gives the new master. */
  readonly switchOver: Effect.Effect<RedisServer.RedisServer, RedisServer.RedisServerError>
  /**
   * Starts what was killed, thaws what was frozen, and returns when there is one master and all others are its replicas.
   * A killed master comes back as a master, with nothing in it unless `appendOnly`, until a Sentinel tells it otherwise.
   */
  readonly restore: Effect.Effect<void, RedisServer.RedisServerError>
}

/** Where a Sentinel is and the name by which the others know it. */
interface Place {
  readonly port: number
  readonly id: string
}

/** Starts it all for the life of the scope. Returns when the Sentinels know each other and all replicas. */
export const make = (
  options: RedisSentinelOptions = {}
): Effect.Effect<RedisSentinel, RedisServer.RedisServerError, Scope.Scope> =>
  Effect.gen(function* () {
    const name = options.name ?? "main"
    const { password, sentinelPassword } = options
    const failed = (description: string) => new RedisServer.RedisServerError({ description })
    const certificates =
      options.tls === true
        ? yield* Effect.flatMap(Machine.folder("underlay-sentinel-"), RedisServer.makeCertificates)
        : undefined
    const data = { password, certificates, appendOnly: options.appendOnly, arguments: options.arguments }

    const first = yield* RedisServer.make(data)
    const replicas = yield* Effect.forEach(
      Array.from({ length: options.replicas ?? 2 }),
      () =>
        Effect.tap(
          RedisServer.make({ ...data, replicaOf: { host: first.host, port: first.port, awaitMaster: false } }),
          // asked for once more, the link is made at once and not at the next turn of the clock
          (replica) => replica.call("REPLICAOF", first.host, String(first.port))
        ),
      { concurrency: "unbounded" }
    )
    const servers = [first, ...replicas]
    yield* Machine.until(
      Effect.map(
        Effect.forEach(replicas, (replica) => replica.call("INFO", "replication"), { concurrency: "unbounded" }),
        (replies) => (replies.every((reply) => String(reply).includes("master_link_status:up")) ? true : undefined)
      ),
      20_000,
      () => failed("the replicas did not follow the master within 20 s")
    )

    // The Sentinels are introduced to each other in their files: by themselves they take seconds to meet.
    const settings = (id: string, places: ReadonlyArray<Place>): string =>
      [
        `sentinel myid ${id}`,
        `sentinel monitor ${name} ${first.host} ${first.port} ${options.quorum ?? 2}`,
        `sentinel down-after-milliseconds ${name} ${options.downAfter ?? 1_000}`,
        `sentinel failover-timeout ${name} 2000`,
        `sentinel parallel-syncs ${name} 2`,
        ...(password === undefined ? [] : [`sentinel auth-pass ${name} ${password}`]),
        ...(sentinelPassword === undefined ? [] : [`sentinel sentinel-pass ${sentinelPassword}`]),
        ...replicas.map((replica) => `sentinel known-replica ${name} ${replica.host} ${replica.port}`),
        ...places
          .filter((other) => other.id !== id)
          .map((other) => `sentinel known-sentinel ${name} ${Machine.host} ${other.port} ${other.id}`),
        ""
      ].join("\n")
    const start = (places: ReadonlyArray<Place>) =>
      Effect.forEach(
        places,
        ({ id, port }) =>
          Effect.map(
            RedisServer.run({
              options: { password: sentinelPassword, port, certificates },
              argv: (place) => {
                const file = Path.join(place.data, "sentinel.conf")
                // a Sentinel keeps in its file what it learned, and has it when it is started again
                if (!Fs.existsSync(file)) Fs.writeFileSync(file, settings(id, places))
                return [
                  ...[file, "--sentinel", "--dir", place.data],
                  ...(sentinelPassword === undefined ? [] : ["--requirepass", sentinelPassword])
                ]
              },
              isReady: () => true
            }),
            (sentinel): RedisServer.RedisServer => ({
              ...sentinel,
              start: Effect.zipRight(sentinel.start, hasten(sentinel))
            })
          ),
        { concurrency: "unbounded" }
      )
    /** Starts them all, on other ports when somebody else took one of them: what they know of each other is the ports. */
    const startAll = (
      left: number
    ): Effect.Effect<ReadonlyArray<RedisServer.RedisServer>, RedisServer.RedisServerError, Scope.Scope> =>
      Effect.gen(function* () {
        const places = yield* Effect.forEach(Array.from({ length: options.sentinels ?? 3 }), () =>
          Effect.map(Machine.freePort, (port) => ({ port, id: Crypto.randomBytes(20).toString("hex") }))
        )
        const scope = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
        return yield* Effect.catchAll(Scope.extend(start(places), scope), (error) =>
          left > 0 && RedisServer.isPortTaken(error.log ?? "")
            ? Effect.zipRight(Scope.close(scope, Exit.void), startAll(left - 1))
            : Effect.fail(error)
        )
      })
    const sentinels = yield* startAll(5)
    yield* Effect.forEach(sentinels, hasten, { concurrency: "unbounded", discard: true })

    const living = Effect.filter(sentinels, (sentinel) => Effect.map(sentinel.pid, (pid) => pid !== undefined))

    /** The server that all living Sentinels take for the master, if they agree. */
    const agreed = Effect.gen(function* () {
      const answers = yield* Effect.forEach(
        yield* living,
        (sentinel) => Effect.either(sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)),
        { concurrency: "unbounded" }
      )
      const ports = answers.map((answer) =>
        answer._tag === "Right" && Array.isArray(answer.right) ? Number(answer.right[1]) : undefined
      )
      return servers.find((server) => ports.length > 0 && ports.every((port) => port === server.port))
    })
    const masterServer = Machine.until(agreed, 20_000, () => failed("the Sentinels did not agree within 20 s"))

    const isWritable = (server: RedisServer.RedisServer) =>
      Effect.map(
        Effect.either(server.call("INFO", "replication")),
        (answer) => answer._tag === "Right" && String(answer.right).includes("role:master")
      )
    const successorOf = (before: RedisServer.RedisServer) =>
      Machine.until(
        Effect.gen(function* () {
          const after = yield* agreed
          return after !== undefined && after.port !== before.port && (yield* isWritable(after)) ? after : undefined
        }),
        60_000,
        () => failed("no replica was promoted within 60 s"),
        50
      )

    const failover = Effect.gen(function* () {
      const before = yield* masterServer
      yield* before.kill
      return yield* successorOf(before)
    })

    const switchOver = Effect.gen(function* () {
      const before = yield* masterServer
      const [sentinel] = yield* living
      if (sentinel === undefined) return yield* Effect.fail(failed("no Sentinel lives"))
      yield* sentinel.call("SENTINEL", "FAILOVER", name)
      const after = yield* successorOf(before)
      yield* untilWhole
      return after
    })

    /** Whether this Sentinel knows `master`, all its replicas and all other Sentinels, and none of them is down. */
    const isContent = (sentinel: RedisServer.RedisServer, master: RedisServer.RedisServer) =>
      Effect.map(
        Effect.either(
          Effect.all([
            sentinel.call("SENTINEL", "MASTER", name),
            sentinel.call("SENTINEL", "REPLICAS", name),
            sentinel.call("SENTINEL", "SENTINELS", name)
          ])
        ),
        (answer) => {
          if (answer._tag === "Left") return false
          const [own, followers, others] = answer.right
          const record = fields(own)
          const known = list(followers).map(fields)
          const peers = list(others).map(fields)
          return (
            record.get("port") === String(master.port) &&
            record.get("flags") === "master" &&
            servers.every(
              (server) =>
                server.port === master.port ||
                known.some(
                  (one) =>
                    one.get("port") === String(server.port) &&
                    one.get("flags") === "slave" &&
                    one.get("master-link-status") === "ok"
                )
            ) &&
            peers.filter((one) => one.get("flags") === "sentinel").length >= sentinels.length - 1
          )
        }
      )
    const follows = (server: RedisServer.RedisServer, master: RedisServer.RedisServer) =>
      Effect.map(Effect.either(server.call("INFO", "replication")), (answer) => {
        const text = answer._tag === "Right" ? String(answer.right) : ""
        return server.port === master.port
          ? text.includes("role:master")
          : text.includes(`master_port:${master.port}\r\n`) && text.includes("master_link_status:up")
      })
    const untilWhole = Machine.until(
      Effect.gen(function* () {
        const master = yield* agreed
        if (master === undefined) return undefined
        const states = yield* Effect.all(
          [
            ...sentinels.map((sentinel) => isContent(sentinel, master)),
            ...servers.map((server) => follows(server, master))
          ],
          { concurrency: "unbounded" }
        )
        return states.every((state) => state) ? true : undefined
      }),
      60_000,
      () => failed("master, replicas and Sentinels were not in order within 60 s"),
      50
    )

    const restore = Effect.gen(function* () {
      yield* Effect.forEach([...servers, ...sentinels], (server) => Effect.zipRight(server.thaw, server.start), {
        concurrency: "unbounded",
        discard: true
      })
      yield* untilWhole
    })

    yield* untilWhole
    return {
      master: name,
      sentinels,
      servers,
      password,
      sentinelPassword,
      certificates,
      masterServer,
      failover,
      switchOver,
      restore
    }
  })

/**
 * Sets the periods of a Sentinel, which are seconds by default. A replica is only promoted when it was heard within five
 * times the period of pings, and while the master is down it is asked once a second: that period cannot be much shorter. A busy machine makes it late at times: it shall not take
 * that for a clock that was set, after which it does nothing for half a minute.
 */
const hasten = (sentinel: RedisServer.RedisServer): Effect.Effect<void, RedisServer.RedisServerError> =>
  Effect.asVoid(
    sentinel.call(
      ...["SENTINEL", "DEBUG", "PING-PERIOD", "400", "INFO-PERIOD", "500", "ASK-PERIOD", "200"],
      ...["PUBLISH-PERIOD", "200", "TILT-TRIGGER", "60000", "TILT-PERIOD", "1000"]
    )
  )

const list = (reply: Resp.Reply): ReadonlyArray<Resp.Reply> => (Array.isArray(reply) ? reply : [])

/** What a Sentinel says of an instance: names and values in turn. */
const fields = (reply: Resp.Reply): ReadonlyMap<string, string> => {
  const values = list(reply).map(String)
  const map = new Map<string, string>()
  for (let index = 0; index + 1 < values.length; index += 2) map.set(values[index] ?? "", values[index + 1] ?? "")
  return map
}
