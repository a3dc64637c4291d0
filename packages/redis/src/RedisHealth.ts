/**
 * The health of Redis: whether each node answers in time, what it is to the others, how full it is and how far its
 * replicas are behind. Answered at once while the server is known to be away.
 *
 * @since 0.1.0
 */
import * as Health from "@underlay/core/operations/Health"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * When Redis still serves, but not as it should.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** How long a node may take to answer. Default: the command timeout of the client. */
  readonly timeout?: Duration.DurationInput | undefined
  /**
   * From which part of its memory a server counts as degraded that evicts nothing, and so will refuse writes. Default: 0.9.
   */
  readonly memory?: number | undefined
  /** From how long a silence of a replica the server counts as degraded. Default: 10 seconds. */
  readonly replicationLag?: Duration.DurationInput | undefined
}

/**
 * What one node says of itself. What its user may not ask is absent.
 *
 * @since 0.1.0
 * @category models
 */
export interface NodeReport {
  readonly id: string
  readonly status: Health.Status
  readonly latencyMs?: number | undefined
  /** `master`, or `replica` where writes will be refused. */
  readonly role?: "master" | "replica" | undefined
  /** In bytes; `max` is 0 where there is no limit. */
  readonly memory?: { readonly used: number; readonly max: number; readonly policy: string } | undefined
  /** Of a master: its replicas, how long the most silent was silent, and how many bytes the last is behind. */
  readonly replicas?: { readonly count: number; readonly lagMs: number; readonly lagBytes: number } | undefined
  /** Of a replica: whether it hears its master. */
  readonly masterLink?: "up" | "down" | undefined
  readonly reason?: string | undefined
  readonly error?: string | undefined
}

/**
 * Asks every node that holds keys. Never fails: what went wrong is in the result. `down` where no node serves, `degraded`
 * where some do not, where a server is nearly full, where a replica is far behind or where the server is a replica. While
 * the server is away the answer comes without asking.
 *
 * @since 0.1.0
 * @category combinators
 */
export const check = (client: RedisClient.Service, options: Options = {}): Effect.Effect<Health.CheckResult> =>
  Effect.gen(function* () {
    const found = yield* Effect.either(client.nodes)
    const reports = Either.isLeft(found)
      ? [wrong(client.topology, found.left)]
      : yield* Effect.forEach(found.right, (node) => report(node, options), { concurrency: "unbounded" })
    const { inFlight, state } = yield* client.stats
    const [first, ...others] = reports
    // one node speaks for itself; of a Cluster each is named
    const details =
      client.topology !== "cluster" && first !== undefined && others.length === 0
        ? { ...first, status: undefined, state, inFlight }
        : { state, inFlight, nodes: reports }
    return { status: worst(reports), details: present(details) }
  })

/**
 * Registers the check as `redis` with the application's `Health`, if there is one.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<never, never, RedisClient.RedisClient> = Layer.scopedDiscard(
  Effect.flatMap(RedisClient.RedisClient, (client) => Health.register({ name: "redis", check: check(client) }))
)

/**
 * Registers the check under a name and with options of one's own.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (
  options: Options & { readonly name?: string | undefined }
): Layer.Layer<never, never, RedisClient.RedisClient> =>
  Layer.scopedDiscard(
    Effect.flatMap(RedisClient.RedisClient, (client) =>
      Health.register({ name: options.name ?? "redis", check: check(client, options) })
    )
  )

const worst = (reports: ReadonlyArray<NodeReport>): Health.Status => {
  if (reports.every(({ status }) => status === "down")) return "down"
  return reports.every(({ status }) => status === "up") ? "up" : "degraded"
}

const wrong = (id: string, error: RedisError): NodeReport => ({
  id,
  status: "down",
  reason: error.reason,
  error: error.message
})

const report = (node: RedisClient.Node, options: Options): Effect.Effect<NodeReport> =>
  Effect.gen(function* () {
    const started = yield* Clock.currentTimeMillis
    const asked = node.sendMany([["PING"], ["INFO", "replication"], ["INFO", "memory"]])
    const answers = yield* options.timeout === undefined
      ? Effect.asSome(asked)
      : Effect.timeoutOption(asked, options.timeout)
    if (answers._tag === "None") {
      return { id: node.id, status: "down", reason: "Timeout", error: "no answer within the time of the check" }
    }
    const [ping, replication, memory] = answers.value
    if (ping === undefined || Either.isLeft(ping)) {
      return ping === undefined ? { id: node.id, status: "down" } : wrong(node.id, ping.left)
    }
    const latencyMs = (yield* Clock.currentTimeMillis) - started
    const said = { ...replicationOf(fieldsOf(replication)), ...memoryOf(fieldsOf(memory)) }
    return { id: node.id, status: healthy(said, options) ? "up" : "degraded", latencyMs, ...said }
  })

type Said = Pick<NodeReport, "role" | "memory" | "replicas" | "masterLink">

const healthy = ({ masterLink, memory, replicas, role }: Said, options: Options): boolean => {
  const lag = Duration.toMillis(options.replicationLag ?? "10 seconds")
  const full =
    memory !== undefined &&
    memory.max > 0 &&
    memory.policy === "noeviction" &&
    memory.used >= memory.max * (options.memory ?? 0.9)
  return !full && role !== "replica" && masterLink !== "down" && (replicas === undefined || replicas.lagMs < lag)
}

/** The lines `name:value` of INFO; none where it may not be asked. */
const fieldsOf = (
  answer: Either.Either<RedisClient.Reply, RedisError> | undefined
): ReadonlyMap<string, string> | undefined => {
  if (answer === undefined || Either.isLeft(answer) || typeof answer.right !== "string") return undefined
  const fields = new Map<string, string>()
  for (const line of answer.right.split("\r\n")) {
    const colon = line.indexOf(":")
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1))
  }
  return fields
}

const replicationOf = (fields: ReadonlyMap<string, string> | undefined): Said => {
  const role = fields?.get("role")
  if (fields === undefined || (role !== "master" && role !== "slave")) return {}
  if (role === "slave") {
    return { role: "replica", masterLink: fields.get("master_link_status") === "up" ? "up" : "down" }
  }
  const offset = Number(fields.get("master_repl_offset")) || 0
  let count = 0
  let lagMs = 0
  let lagBytes = 0
  for (const [name, value] of fields) {
    if (!/^slave\d+$/.test(name)) continue
    count++
    const parts = new Map(value.split(",").map((part) => [part.split("=")[0] ?? "", part.split("=")[1] ?? ""]))
    lagMs = Math.max(lagMs, (Number(parts.get("lag")) || 0) * 1_000)
    lagBytes = Math.max(lagBytes, offset - (Number(parts.get("offset")) || 0))
  }
  return { role: "master", replicas: { count, lagMs, lagBytes } }
}

const memoryOf = (fields: ReadonlyMap<string, string> | undefined): Said => {
  const used = Number(fields?.get("used_memory"))
  if (fields === undefined || !Number.isFinite(used)) return {}
  const max = Number(fields.get("maxmemory")) || 0
  return { memory: { used, max, policy: fields.get("maxmemory_policy") ?? "noeviction" } }
}

const present = (details: object): Readonly<Record<string, unknown>> =>
  Object.fromEntries(Object.entries(details).filter(([, value]) => value !== undefined))
