/**
 * A real Redis Cluster on loopback. Slots are moved between its nodes while it is used, key by key as an operator's
 * tool does; masters are killed and their replicas take over.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Certificates } from "./internal/certificates.ts"
import type { Connection } from "./internal/connection.ts"
import * as Machine from "./internal/machine.ts"
import type * as Resp from "./internal/resp.ts"
import * as RedisServer from "./RedisServer.ts"

/** Options of a cluster. */
export interface RedisClusterOptions {
  /** How many masters share the slots. At least 3, for a failover needs a majority of them. Default: 3. */
  readonly masters?: number | undefined
  /** How many replicas each master has. Default: 1. */
  readonly replicas?: number | undefined
  /** How long a node may be silent before it counts as failed, in milliseconds. Default: 2000. */
  readonly nodeTimeout?: number | undefined
  /** The password of all nodes. */
  readonly password?: string | undefined
  /** Only TLS is spoken, between the nodes too. */
  readonly tls?: boolean | undefined
  /** Writes survive `kill` and `start`. */
  readonly appendOnly?: boolean | undefined
  /** Further arguments of every redis-server. */
  readonly arguments?: ReadonlyArray<string> | undefined
  /**
   * The port that a node announces to clients in place of its own: that of a proxy in front of it. What replicas say to
   * their masters goes that way too.
   */
  readonly announce?:
    | ((node: {
        readonly index: number
        readonly host: string
        readonly port: number
      }) => Effect.Effect<number, RedisServer.RedisServerError, Scope.Scope>)
    | undefined
}

/** One of the servers. */
export interface RedisClusterNode extends RedisServer.RedisServer {
  /** Its place among the nodes: masters come first as the cluster is made, then their replicas in the same order. */
  readonly index: number
  /** The id by which the nodes know it. */
  readonly id: string
  /** The port that it announces to clients. */
  readonly announced: number
}

/** A slot on its way: its old master sends those who ask for a key that has gone already to the new one (ASK). */
export interface RedisClusterMove {
  readonly from: RedisClusterNode
  readonly to: RedisClusterNode
  /** Moves up to so many keys (default: all) and says how many it moved. */
  readonly migrateKeys: (count?: number) => Effect.Effect<number, RedisServer.RedisServerError>
  /** Moves the keys that are left, tells the nodes the new owner and returns when all that live agree on it. */
  readonly finish: Effect.Effect<void, RedisServer.RedisServerError>
}

/** A running cluster. */
export interface RedisCluster {
  readonly nodes: ReadonlyArray<RedisClusterNode>
  readonly password: string | undefined
  /** What a client needs to speak TLS with it. */
  readonly certificates: Certificates | undefined
  /** Where each slot is: the index of its master by slot, -1 where it has none. By the view of a living master. */
  readonly owners: Effect.Effect<ReadonlyArray<number>, RedisServer.RedisServerError>
  /** The node that owns the slot. */
  readonly ownerOf: (slot: number) => Effect.Effect<RedisClusterNode, RedisServer.RedisServerError>
  /** The slot of a key. */
  readonly slotOf: (key: string) => Effect.Effect<number, RedisServer.RedisServerError>
  /** Sends one command to one node and gives its reply as data. An error reply (MOVED, ASK) is a failure. */
  readonly command: (
    node: number,
    ...parts: ReadonlyArray<string>
  ) => Effect.Effect<Resp.Reply, RedisServer.RedisServerError>
  /**
   * Moves one slot with its keys to the master of that index. Nothing happens when it is there. As every move, it is over
   * when all living nodes agree on it: the next can begin at once.
   */
  readonly move: (slot: number, to: number) => Effect.Effect<void, RedisServer.RedisServerError>
  /** Moves slots with their keys, some at a time, while the cluster is used. */
  readonly migrate: (slots: Iterable<number>, to: number) => Effect.Effect<void, RedisServer.RedisServerError>
  /** Opens the move of one slot, moves no key yet. */
  readonly startMove: (slot: number, to: number) => Effect.Effect<RedisClusterMove, RedisServer.RedisServerError>
  /**
   * Kills the master of a shard and returns when a replica of it took over and every living node knows that. Shards are
   * counted from 0: shard n was made of node n and the replicas of node n. Gives the promoted node. It waits until the
   * replicas have heard of all moves, for one that has not would not take over a slot that its master got last: let no
   * slot be moved meanwhile.
   */
  readonly killMaster: (shard: number) => Effect.Effect<RedisClusterNode, RedisServer.RedisServerError>
  /** Hands a shard to one of its replicas in agreement with its master: no write is lost. Gives the new master. */
  readonly handOver: (shard: number) => Effect.Effect<RedisClusterNode, RedisServer.RedisServerError>
  /** Starts what was killed, thaws what was frozen and waits until the cluster is whole. */
  readonly heal: Effect.Effect<void, RedisServer.RedisServerError>
}

/** How many slots a cluster has. */
export const slotCount = 16_384

/** Starts a cluster for the life of the scope. Returns when every node serves and every replica has its master's data. */
export const make = (
  options: RedisClusterOptions = {}
): Effect.Effect<RedisCluster, RedisServer.RedisServerError, Scope.Scope> =>
  Effect.gen(function* () {
    const masters = options.masters ?? 3
    const replicas = options.replicas ?? 1
    const nodeTimeout = options.nodeTimeout ?? 2_000
    const total = masters * (1 + replicas)
    const shardOf = (index: number): number => index % masters
    const { password } = options
    const certificates =
      options.tls === true
        ? yield* Effect.flatMap(Machine.folder("underlay-cluster-"), RedisServer.makeCertificates)
        : undefined

    const started = yield* Effect.forEach(
      Array.from({ length: total }, (_, index) => index),
      (index) => startNode(index, options, nodeTimeout, certificates),
      { concurrency: "unbounded" }
    )
    const nodes: ReadonlyArray<RedisClusterNode> = yield* Effect.forEach(
      started,
      (one) =>
        Effect.map(one.server.call("CLUSTER", "MYID"), (id) => ({
          ...one.server,
          index: one.index,
          announced: one.announced,
          id: String(id)
        })),
      { concurrency: "unbounded" }
    )
    const failed = (description: string) => new RedisServer.RedisServerError({ description })
    const nodeAt = (index: number): Effect.Effect<RedisClusterNode, RedisServer.RedisServerError> => {
      const node = nodes[index]
      return node === undefined ? Effect.fail(failed(`there is no node ${index}`)) : Effect.succeed(node)
    }
    const living = Effect.filter(nodes, (node) => Effect.map(node.pid, (pid) => pid !== undefined))

    const onEach = (commands: (index: number) => ReadonlyArray<ReadonlyArray<string>>) =>
      Effect.forEach(
        nodes,
        (node) => Effect.scoped(Effect.flatMap(node.connect, (connection) => calls(connection, commands(node.index)))),
        { concurrency: "unbounded", discard: true }
      )
    // Each master takes its slots, each node an epoch of its own: none may be left to be found out by the nodes.
    yield* onEach((index) => [
      ["CLUSTER", "SET-CONFIG-EPOCH", String(index + 1)],
      ...(index < masters
        ? [["CLUSTER", "ADDSLOTSRANGE", String(firstSlot(index, masters)), String(lastSlot(index, masters))]]
        : [])
    ])
    // Every pair is introduced: by gossip alone it takes seconds until all have met.
    yield* onEach((index) =>
      started
        .slice(index + 1)
        .map((other) => ["CLUSTER", "MEET", other.server.host, String(other.server.port), String(other.bus)])
    )
    const everybodyKnows = (lines: ReadonlyArray<NodeLine>): boolean =>
      nodes.every((node) => lines.some((line) => line.id === node.id && !line.flags.includes("handshake")))
    yield* Effect.forEach(
      nodes.slice(masters),
      (node, index) =>
        Effect.gen(function* () {
          const master = yield* nodeAt(shardOf(index))
          yield* Machine.until(
            Effect.map(view(node), (lines) => (everybodyKnows(lines) ? true : undefined)),
            20_000,
            () => failed("the nodes of the cluster did not meet within 20 s")
          )
          yield* node.call("CLUSTER", "REPLICATE", master.id)
        }),
      { concurrency: "unbounded" }
    )

    /** Whether by the view of this node all slots are served and all living nodes are linked. */
    const isWhole = (node: RedisClusterNode, all: ReadonlyArray<RedisClusterNode>, asReplicas: number) =>
      Effect.map(
        Effect.either(
          Effect.zip(view(node), Effect.zip(node.call("CLUSTER", "INFO"), node.call("INFO", "replication")))
        ),
        (answer) => {
          if (answer._tag === "Left") return false
          const [lines, [state, replication]] = answer.right
          const good = lines.filter((line) => all.some((one) => one.id === line.id) && line.linked && !line.failing)
          return (
            String(state).includes("cluster_state:ok") &&
            // one that may serve a part of the slots is well before it has heard of all
            String(state).includes(`cluster_slots_assigned:${slotCount}`) &&
            !String(replication).includes("master_link_status:down") &&
            good.length === all.length &&
            lines.filter((line) => !line.failing && line.flags.includes("slave")).length >= asReplicas
          )
        }
      )
    const untilWhole = (asReplicas: number) =>
      Machine.until(
        Effect.flatMap(living, (all) =>
          Effect.map(
            Effect.forEach(all, (node) => isWhole(node, all, asReplicas), { concurrency: "unbounded" }),
            (answers) => (answers.every((answer) => answer) ? true : undefined)
          )
        ),
        60_000,
        () => failed("the cluster was not whole within 60 s"),
        50
      )
    yield* untilWhole(masters * replicas)

    /** What the living masters say of the cluster, from the first of them that answers. */
    const currentView: Effect.Effect<ReadonlyArray<NodeLine>, RedisServer.RedisServerError> = Effect.flatMap(
      living,
      (all) =>
        Effect.firstSuccessOf(
          all.map((node) =>
            Effect.filterOrFail(
              view(node),
              (lines) => lines.some((line) => line.flags.includes("myself") && line.flags.includes("master")),
              () => failed("no living master")
            )
          )
        )
    )
    const owners = Effect.map(currentView, (lines) => {
      const table: Array<number> = Array.from({ length: slotCount }, () => -1)
      for (const line of lines) {
        const index = nodes.findIndex((node) => node.id === line.id)
        eachSlot(line, (slot) => {
          table[slot] = index
        })
      }
      return table
    })
    const ownerOf = (slot: number) => Effect.flatMap(owners, (table) => nodeAt(table[slot] ?? -1))

    /**
     * Waits until every living node has each slot where its master says it is. Replicas hear of moves by gossip, and what
     * they hear late of one owner they do not believe when they have heard of a younger epoch of the former: an owner
     * that is not believed takes a new epoch.
     */
    const settle = Effect.suspend(() => {
      let looks = 0
      return Machine.until(
        Effect.gen(function* () {
          const views = yield* Effect.forEach(yield* living, view, { concurrency: "unbounded" })
          const claims = new Map<number, string>()
          for (const lines of views) {
            const own = lines.find((line) => line.flags.includes("myself") && line.flags.includes("master"))
            if (own !== undefined) eachSlot(own, (slot) => claims.set(slot, own.id))
          }
          const doubted = new Set<string>()
          for (const lines of views) {
            for (const line of lines) {
              eachSlot(line, (slot) => {
                const owner = claims.get(slot)
                if (owner !== undefined && owner !== line.id) doubted.add(owner)
              })
            }
          }
          if (doubted.size === 0) return true
          if (++looks % 10 === 0) {
            const owners = nodes.filter((node) => doubted.has(node.id))
            yield* Effect.forEach(owners, (node) => node.call("CLUSTER", "BUMPEPOCH"), { discard: true })
          }
          return undefined
        }),
        60_000,
        () => failed("the nodes did not agree on the slots within 60 s"),
        100
      )
    })

    /** The present master of a shard. */
    const masterOf = (shard: number) =>
      Effect.flatMap(currentView, (lines) => {
        const claims = lines.flatMap((line) => {
          const node = nodes.find((one) => one.id === line.id && shardOf(one.index) === shard)
          return node !== undefined && line.flags.includes("master") && !line.failing ? [{ node, line }] : []
        })
        // one that handed over a moment ago still calls itself a master, without slots
        const master = (claims.find(({ line }) => line.slots.length > 0) ?? claims[0])?.node
        return master === undefined ? Effect.fail(failed(`shard ${shard} has no master`)) : Effect.succeed(master)
      })

    /** Waits until all living nodes take another node of the shard for its master. */
    const promoted = (shard: number, before: RedisClusterNode) =>
      Machine.until(
        Effect.gen(function* () {
          const all = yield* living
          const views = yield* Effect.forEach(all, (node) => Effect.either(view(node)), { concurrency: "unbounded" })
          return all.find(
            (node) =>
              node.id !== before.id &&
              shardOf(node.index) === shard &&
              views.every(
                (lines) =>
                  lines._tag === "Right" &&
                  lines.right.some((line) => line.id === node.id && line.flags.includes("master")) &&
                  !lines.right.some(
                    (line) => line.id === before.id && line.flags.includes("master") && line.slots.length > 0
                  )
              )
          )
        }),
        60_000,
        () => failed(`no replica of shard ${shard} took over within 60 s`),
        50
      )

    const serving = (node: RedisClusterNode) =>
      Machine.until(
        Effect.map(Effect.either(node.call("CLUSTER", "INFO")), (answer) =>
          answer._tag === "Right" && String(answer.right).includes("cluster_state:ok") ? true : undefined
        ),
        60_000,
        () => failed("the promoted node does not serve within 60 s")
      )

    const killMaster = (shard: number) =>
      Effect.gen(function* () {
        // a replica that knows less than its master would claim what that gave away
        yield* settle
        const before = yield* masterOf(shard)
        yield* before.kill
        const after = yield* promoted(shard, before)
        yield* Effect.forEach(yield* living, serving, { concurrency: "unbounded", discard: true })
        return after
      })

    const handOver = (shard: number) =>
      Effect.gen(function* () {
        yield* settle
        const before = yield* masterOf(shard)
        const all = yield* living
        const replica = all.find((node) => shardOf(node.index) === shard && node.id !== before.id)
        if (replica === undefined) return yield* Effect.fail(failed(`shard ${shard} has no living replica`))
        yield* replica.call("CLUSTER", "FAILOVER")
        const after = yield* promoted(shard, before)
        yield* untilWhole(all.length - masters)
        return after
      })

    const heal = Effect.gen(function* () {
      yield* Effect.forEach(nodes, (node) => Effect.zipRight(node.thaw, node.start), {
        concurrency: "unbounded",
        discard: true
      })
      yield* untilWhole(masters * replicas)
      yield* settle
    })

    /** The connections that a move needs: to the old owner, the new one and all other masters that live. */
    const route = (from: RedisClusterNode, to: RedisClusterNode) =>
      Effect.gen(function* () {
        const lines = yield* currentView
        const all = yield* living
        const others = all.filter(
          (node) =>
            node.id !== from.id &&
            node.id !== to.id &&
            lines.some((line) => line.id === node.id && line.flags.includes("master"))
        )
        return {
          source: yield* from.connect,
          target: yield* to.connect,
          others: yield* Effect.forEach(others, (node) => node.connect)
        }
      })
    type Route = Effect.Effect.Success<ReturnType<typeof route>>

    const open = (way: Route, from: RedisClusterNode, to: RedisClusterNode, slots: ReadonlyArray<number>) =>
      Effect.zipRight(
        calls(
          way.target,
          slots.map((slot) => ["CLUSTER", "SETSLOT", String(slot), "IMPORTING", from.id])
        ),
        calls(
          way.source,
          slots.map((slot) => ["CLUSTER", "SETSLOT", String(slot), "MIGRATING", to.id])
        )
      )

    /** One batch of keys of a slot. Gives how many there were. */
    const migrateSome = (source: Connection, to: RedisClusterNode, slot: number, count: number) =>
      Effect.gen(function* () {
        const [found] = yield* calls(source, [["CLUSTER", "GETKEYSINSLOT", String(slot), String(count)]])
        const keys = Array.isArray(found) ? found.map(String) : []
        if (keys.length === 0) return 0
        yield* calls(source, [
          [
            ...["MIGRATE", to.host, String(to.port), "", "0", "5000"],
            ...(password === undefined ? [] : ["AUTH", password]),
            ...["KEYS", ...keys]
          ]
        ])
        return keys.length
      })
    const migrateAll = (source: Connection, to: RedisClusterNode, slot: number, limit: number) =>
      Effect.gen(function* () {
        let moved = 0
        while (moved < limit) {
          const some = yield* migrateSome(source, to, slot, Math.min(batch, limit - moved))
          if (some === 0) return moved
          moved += some
        }
        return moved
      })

    /** The new owner hears it first: were it the old one, a node could believe for a while that nobody has the slot. */
    const close = (way: Route, to: RedisClusterNode, slots: ReadonlyArray<number>) =>
      Effect.zipRight(
        Effect.forEach(
          [way.target, way.source, ...way.others],
          (connection) =>
            calls(
              connection,
              slots.map((slot) => ["CLUSTER", "SETSLOT", String(slot), "NODE", to.id])
            ),
          { discard: true }
        ),
        agreed(to, slots)
      )

    /**
     * Waits until every living node has the slots at their new owner and knows the epoch that this took for them. Until
     * then a message that the old owner sent before the move makes a node believe it again, by its younger epoch, and
     * the next move would start from there. An owner that is not believed takes a new epoch.
     */
    const agreed = (to: RedisClusterNode, slots: ReadonlyArray<number>) =>
      Effect.suspend(() => {
        let looks = 0
        return Machine.until(
          Effect.gen(function* () {
            const own = (yield* view(to)).find((line) => line.id === to.id)
            const views = yield* Effect.forEach(yield* living, (node) => Effect.either(view(node)), {
              concurrency: "unbounded"
            })
            const knows = (lines: ReadonlyArray<NodeLine>): boolean => {
              const line = lines.find(({ id }) => id === to.id)
              return line !== undefined && line.epoch >= (own?.epoch ?? 0) && slots.every((slot) => has(line, slot))
            }
            // one that is frozen says nothing, and believes nothing else meanwhile
            if (views.every((lines) => lines._tag === "Left" || knows(lines.right))) return true
            if (++looks % 50 === 0) yield* to.call("CLUSTER", "BUMPEPOCH")
            return undefined
          }),
          60_000,
          () => failed("the nodes did not agree on a move within 60 s"),
          10
        )
      })

    const migrate: RedisCluster["migrate"] = (slots, to) =>
      Effect.gen(function* () {
        const target = yield* nodeAt(to)
        const table = yield* owners
        const bySource = new Map<number, Array<number>>()
        for (const slot of slots) {
          const owner = table[slot] ?? -1
          if (owner !== to) bySource.set(owner, [...(bySource.get(owner) ?? []), slot])
        }
        for (const [owner, own] of bySource) {
          const source = yield* nodeAt(owner)
          yield* Effect.scoped(
            Effect.gen(function* () {
              const way = yield* route(source, target)
              for (let from = 0; from < own.length; from += atATime) {
                const some = own.slice(from, from + atATime)
                yield* open(way, source, target, some)
                yield* Effect.forEach(some, (slot) => migrateAll(way.source, target, slot, Number.POSITIVE_INFINITY), {
                  discard: true
                })
                yield* close(way, target, some)
              }
            })
          )
        }
      })

    const startMove: RedisCluster["startMove"] = (slot, to) =>
      Effect.gen(function* () {
        const target = yield* nodeAt(to)
        const source = yield* ownerOf(slot)
        if (source.index === to) return yield* Effect.fail(failed(`slot ${slot} is at node ${to} already`))
        const along = <A>(run: (way: Route) => Effect.Effect<A, RedisServer.RedisServerError>) =>
          Effect.scoped(Effect.flatMap(route(source, target), run))
        yield* along((way) => open(way, source, target, [slot]))
        const keys = (way: Route, limit: number) => migrateAll(way.source, target, slot, limit)
        return {
          from: source,
          to: target,
          migrateKeys: (count = Number.POSITIVE_INFINITY) => along((way) => keys(way, count)),
          finish: along((way) => Effect.zipRight(keys(way, Number.POSITIVE_INFINITY), close(way, target, [slot])))
        }
      })

    return {
      nodes,
      password,
      certificates,
      owners,
      ownerOf,
      slotOf: (key) =>
        Effect.flatMap(living, ([node]) =>
          node === undefined
            ? Effect.fail(failed("no node lives"))
            : Effect.map(node.call("CLUSTER", "KEYSLOT", key), Number)
        ),
      command: (index, ...parts) => Effect.flatMap(nodeAt(index), (node) => node.call(...parts)),
      move: (slot, to) => migrate([slot], to),
      migrate,
      startMove,
      killMaster,
      handOver,
      heal
    }
  })

/** How many keys are moved by one command, and how many slots are on their way at a time. */
const batch = 100
const atATime = 128

const firstSlot = (index: number, masters: number): number => Math.floor((slotCount * index) / masters)
const lastSlot = (index: number, masters: number): number => firstSlot(index + 1, masters) - 1

interface Started {
  readonly index: number
  readonly bus: number
  readonly announced: number
  readonly server: RedisServer.RedisServer
}

/** Starts one node, on other ports when somebody else took one of them. */
const startNode = (
  index: number,
  options: RedisClusterOptions,
  nodeTimeout: number,
  certificates: Certificates | undefined,
  left = 5
): Effect.Effect<Started, RedisServer.RedisServerError, Scope.Scope> =>
  Effect.gen(function* () {
    const port = yield* Machine.freePort
    const bus = yield* Machine.freePort
    const announced =
      options.announce === undefined ? port : yield* options.announce({ index, host: Machine.host, port })
    const announcement =
      announced === port
        ? []
        : [certificates === undefined ? "--cluster-announce-port" : "--cluster-announce-tls-port", String(announced)]
    const server = yield* RedisServer.make({
      port,
      password: options.password,
      appendOnly: options.appendOnly,
      certificates,
      arguments: [
        ...["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", String(bus)],
        ...["--cluster-node-timeout", String(nodeTimeout), "--cluster-replica-validity-factor", "0"],
        ...["--cluster-announce-ip", Machine.host, ...announcement],
        // a master that gave all its slots away stays a master
        ...["--cluster-allow-replica-migration", "no"],
        ...(certificates === undefined ? [] : ["--tls-cluster", "yes"]),
        ...(options.arguments ?? [])
      ]
    })
    return { index, bus, announced, server }
  }).pipe(
    Effect.catchIf(
      (error) => left > 0 && RedisServer.isPortTaken(error.log ?? ""),
      () => startNode(index, options, nodeTimeout, certificates, left - 1)
    )
  )

/** A node in the view of another. */
interface NodeLine {
  readonly id: string
  readonly flags: ReadonlyArray<string>
  readonly failing: boolean
  readonly linked: boolean
  /** The age of what it claims: of two that claim a slot the one with the higher is believed. */
  readonly epoch: number
  readonly slots: ReadonlyArray<readonly [first: number, last: number]>
}

const eachSlot = (line: NodeLine, visit: (slot: number) => void): void => {
  for (const [first, last] of line.slots) for (let slot = first; slot <= last; slot++) visit(slot)
}

const has = (line: NodeLine, slot: number): boolean => line.slots.some(([first, last]) => first <= slot && slot <= last)

/** The cluster as a node sees it. */
const view = (node: RedisServer.RedisServer): Effect.Effect<ReadonlyArray<NodeLine>, RedisServer.RedisServerError> =>
  Effect.map(node.call("CLUSTER", "NODES"), (text) =>
    String(text)
      .split("\n")
      .filter((line) => line !== "")
      .map((line): NodeLine => {
        const [id = "", , marks = "", , , , epoch, link, ...ranges] = line.split(" ")
        const flags = marks.split(",")
        return {
          id,
          flags,
          failing: flags.some((flag) => flag === "fail" || flag === "fail?"),
          linked: link === "connected",
          epoch: Number(epoch),
          slots: ranges
            // in brackets stands what is on its way
            .filter((range) => !range.startsWith("["))
            .map((range) => {
              const [first = "", last = first] = range.split("-")
              return [Number(first), Number(last)] as const
            })
        }
      })
  )

/** The replies to commands on a connection. */
const calls = (
  connection: Connection,
  commands: ReadonlyArray<ReadonlyArray<string>>
): Effect.Effect<ReadonlyArray<Resp.Reply>, RedisServer.RedisServerError> =>
  Effect.mapError(connection.calls(commands), (description) => new RedisServer.RedisServerError({ description }))
