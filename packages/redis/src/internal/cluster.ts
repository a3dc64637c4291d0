/**
 * A Cluster: one connection to each master, and a map of which has which slot, corrected by what the nodes say. A command
 * that a node sends on to another has not been done, so it goes there; nothing else is sent twice.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import type { Address } from "../RedisSettings.ts"
import * as Attempt from "./attempt.ts"
import { type Answer, type Call, failure, notSent, type Part, type TakeBack } from "./call.ts"
import * as Commands from "./commands.ts"
import * as Connection from "./connection.ts"
import * as Deadlines from "./deadlines.ts"
import type { Argument } from "./driver.ts"
import * as Isolated from "./isolated.ts"
import type * as Model from "./model.ts"
import * as Operations from "./operations.ts"
import type { Router, RouterOptions } from "./router.ts"
import * as Sentinel from "./sentinel.ts"
import * as Slots from "./slots.ts"
import { greetingOf, targetOf } from "./standalone.ts"

/** A master. */
interface Node {
  readonly id: string
  readonly address: Address
  readonly connection: Connection.Connection
}

/** How often one call is sent on before it fails. */
const mostHops = 8

/** The shortest time between two questions for the map, in milliseconds. */
const loadPause = 50

/** How many nodes are asked for the map at once, and how long before the next are, in milliseconds. */
const asked = 3
const patience = 300

/** How long a command waits whose keys are just being moved, in milliseconds. */
const movePause = 10

const idOf = ({ host, port }: Address): string => `${host}:${port}`

export const make = ({ apart, core, name, onLeft, onProgress, onState, settings, tls }: RouterOptions): Router => {
  const { counts } = core
  const targetAt = targetOf(core, settings.tls ? tls : undefined)
  const greeting = greetingOf(settings, name)
  /** For the questions for the map, which are not the commands of the program. */
  const side = apart()

  const nodes = new Map<string, Node>()
  /** Nodes that have no slots any more and may have commands under way. */
  const leaving = new Map<Node, ReturnType<typeof setTimeout>>()
  const slots: Array<Node | undefined> = new Array(Slots.count).fill(undefined)
  /** All nodes that were heard of, replicas too: one of them will know the map. */
  let known: ReadonlyArray<Address> = settings.nodes
  let state: Model.ConnectionState = "idle"
  let problem: RedisError | undefined
  let loaded = false
  let turn = 0
  const loadWatchers = new Set<() => void>()

  const become = (to: Model.ConnectionState): void => {
    if (state === to) return
    state = to
    onState(to)
  }

  const begun: Router["begun"] = (late) => {
    if (!loaded) return state === "away" ? Either.left(problem) : undefined
    const states = [...nodes.values()].map(({ connection }) => connection.state())
    const some = states.includes("ready")
    // who is there is served; a node that hangs is waited for no longer than a command would
    if (states.every((one) => one === "ready") || (some && late)) return Either.right(undefined)
    if (states.includes("connecting")) return undefined
    return some ? Either.right(undefined) : Either.left(problem)
  }

  // ---- the map

  let stopLoading: (() => void) | undefined
  let loadTimer: ReturnType<typeof setTimeout> | undefined
  let lastLoad = Number.NEGATIVE_INFINITY

  /** Asks for the map soon, if that is not under way. */
  const load = (delay = 0): void => {
    if (state === "closed" || stopLoading !== undefined || loadTimer !== undefined) return
    const wait = Math.max(delay, lastLoad + loadPause - performance.now())
    if (wait > 0) {
      loadTimer = setTimeout(() => {
        loadTimer = undefined
        begin()
      }, wait)
    } else begin()
  }

  const begin = (): void => {
    lastLoad = performance.now()
    // those that are connected are asked first, in turns
    const ready = [...nodes.values()].filter(({ connection }) => connection.state() === "ready")
    const first = rotate(ready, turn).map(({ address }) => address)
    const others = rotate(distinct([...settings.nodes, ...known]), turn)
    turn++
    const candidates = distinct([...first, ...others])
    const cancels = new Set<() => void>()
    let over = false
    let next = 0
    let left = 0
    let worst: RedisError | undefined
    let timer: ReturnType<typeof setTimeout> | undefined

    const stop = (): void => {
      over = true
      clearTimeout(timer)
      for (const cancel of cancels) cancel()
      stopLoading = undefined
    }
    const more = (): void => {
      clearTimeout(timer)
      const those = candidates.slice(next, next + asked)
      next += those.length
      left += those.length
      if (next < candidates.length) timer = setTimeout(more, patience)
      for (const address of those) cancels.add(ask(address, answered))
    }
    const answered = (result: Either.Either<ReadonlyArray<Range>, RedisError>): void => {
      if (over) return
      left--
      if (Either.isRight(result)) {
        stop()
        apply(result.right)
        return
      }
      // what a node says tells more than that another cannot be reached
      if (worst === undefined || worst.reason === "Unavailable") worst = result.left
      if (left > 0) return
      if (next < candidates.length) more()
      else {
        stop()
        notLoaded(worst)
      }
    }
    stopLoading = stop
    more()
  }

  /** Asks one node for the map. */
  const ask = (
    address: Address,
    done: (result: Either.Either<ReadonlyArray<Range>, RedisError>) => void
  ): (() => void) => {
    let link: { readonly close: () => void } | undefined
    const cancel = Attempt.begin(side, { locate: Sentinel.at(targetAt(address)), greeting }, (result) => {
      if (Either.isLeft(result)) {
        done(Either.left(result.left))
        return
      }
      const opened = result.right
      let over = false
      const finish = (found: Either.Either<ReadonlyArray<Range>, RedisError>): void => {
        if (over) return
        over = true
        opened.link.close()
        done(found)
      }
      link = opened.link
      opened.onClosed = (cause) => finish(Either.left(RedisError.fromUnknown("connect", cause, false)))
      opened.link.send("CLUSTER", ["SLOTS"], false, (wrong, reply) => {
        if (wrong !== undefined) finish(Either.left(RedisError.fromUnknown("connect", wrong, false)))
        else {
          const ranges = rangesOf(reply, address.host)
          finish(ranges.length === 0 ? Either.left(noSlots) : Either.right(ranges))
        }
      })
    })
    return () => {
      cancel()
      link?.close()
    }
  }

  const notLoaded = (error: RedisError | undefined): void => {
    problem = error
    for (const watcher of [...loadWatchers]) watcher()
    if (loaded) load(core.reconnectDelay)
    else {
      become("away")
      if (core.answerAtOnce) for (const call of takeWaiting()) call.settle(away(call.method, problem))
      load(core.reconnectDelay)
    }
  }

  const apply = (ranges: ReadonlyArray<Range>): void => {
    const present = new Set<string>()
    const map: Array<Node | undefined> = new Array(Slots.count).fill(undefined)
    for (const { from, master, to } of ranges) {
      const node = nodeAt(master)
      present.add(node.id)
      for (let slot = from; slot <= to; slot++) map[slot] = node
    }
    for (const [slot, node] of map.entries()) slots[slot] = node
    known = distinct(ranges.flatMap(({ master, replicas }) => [master, ...replicas]))
    for (const node of [...nodes.values()]) if (!present.has(node.id)) leave(node)
    const first = !loaded
    loaded = true
    problem = undefined
    for (const node of nodes.values()) node.connection.connect()
    for (const watcher of [...loadWatchers]) watcher()
    settle()
    if (first) for (const call of takeWaiting()) passOn(call)
    onLeft(new Set(known.map(idOf)))
  }

  const nodeAt = (address: Address): Node => {
    const id = idOf(address)
    const there = nodes.get(id)
    if (there !== undefined) return there
    const node: Node = {
      id,
      address,
      connection: Connection.make(core, { locate: Sentinel.at(targetAt(address)), greeting, onState: () => settle() })
    }
    nodes.set(id, node)
    return node
  }

  /** A node that has no slots any more: what is under way there may still be answered. */
  const leave = (node: Node): void => {
    nodes.delete(node.id)
    leaving.set(
      node,
      setTimeout(() => {
        leaving.delete(node)
        node.connection.close()
      }, core.commandTimeout)
    )
  }

  /** The state of the whole from those of its nodes. */
  const settle = (): void => {
    if (state === "closed" || !loaded) return
    onProgress()
    const states = [...nodes.values()].map(({ connection }) => connection.state())
    if (states.every((one) => one === "ready")) {
      if (slots.includes(undefined)) {
        become("away")
        // the node that was asked may not have heard of all
        load(core.reconnectDelay)
      } else become("ready")
      return
    }
    if (states.includes("away")) {
      problem = [...nodes.values()].map(({ connection }) => connection.problem()).find((one) => one !== undefined)
      become("away")
      // another node may have its slots by now
      load(core.reconnectDelay)
    } else if (state === "idle" || state === "away") become("connecting")
  }

  // ---- calls

  const waiting = Deadlines.make((due) => {
    // who waited so long in vain knows that it is away: those who come now need not find that out again
    if (state === "connecting" && !loaded && core.answerAtOnce) become("away")
    for (const call of due) {
      counts.waiting--
      counts.timedOut++
      call.settle(Either.left(tooLate(call.method)))
    }
  })

  const takeWaiting = (): ReadonlyArray<Call> => {
    const all = waiting.clear()
    counts.waiting -= all.length
    return all
  }

  const away = (method: string, why: RedisError | undefined): Either.Either<never, RedisError> => {
    counts.notSent++
    const code = why?.code
    return Either.left(
      failure({
        reason: why === undefined || why.reason === "Timeout" ? "Unavailable" : why.reason,
        outcome: "not-sent",
        method,
        description: why?.description ?? "there is no connection to the Cluster",
        ...(code === undefined ? {} : { code })
      })
    )
  }

  const anyNode = (): Node | undefined => {
    const all = [...nodes.values()]
    const ready = all.filter(({ connection }) => connection.state() === "ready")
    const those = ready.length > 0 ? ready : all
    return those[turn++ % those.length]
  }

  const submit = (call: Call): TakeBack => {
    if (state === "closed") {
      call.settle(notSent(counts, "Closed", call.method, "the client is released"))
      return undefined
    }
    if (!loaded) return wait(call)
    const slot = slotOf(call)
    if (slot === undefined) {
      call.settle(
        notSent(
          counts,
          "CrossSlot",
          call.method,
          "the keys are in several slots of the Cluster: give them one hash tag"
        )
      )
      return undefined
    }
    const node = slot < 0 ? anyNode() : slots[slot]
    if (node === undefined) {
      load()
      call.settle(notSent(counts, "NotReady", call.method, "no node of the Cluster has this slot"))
      return undefined
    }
    return route(call, node, 0)
  }

  /** What takes back the calls that waited for the map and wait for their nodes now. */
  const passedOn = new WeakMap<Call, () => void>()

  const wait = (call: Call): TakeBack => {
    if (state === "away" && core.answerAtOnce) {
      call.settle(away(call.method, problem))
      return undefined
    }
    if (counts.unanswered + counts.waiting >= core.maxInFlight) {
      call.settle(notSent(counts, "Overloaded", call.method, `${core.maxInFlight} commands wait already`))
      return undefined
    }
    counts.waiting++
    waiting.add(call)
    connect()
    return () => {
      if (waiting.delete(call)) {
        counts.waiting--
        counts.notSent++
      } else passedOn.get(call)?.()
    }
  }

  const passOn = (call: Call): void => {
    const takeBack = submit(call)
    if (takeBack !== undefined) passedOn.set(call, takeBack)
  }

  /** The call as it goes to a node: with its own way of going on where the node sends it elsewhere. */
  const routed = (call: Call, changed: Partial<Pick<Call, "burst" | "settle" | "refused">>): Call => ({
    method: call.method,
    part: call.part,
    burst: call.burst,
    binary: call.binary,
    deadline: call.deadline,
    settle: (result) => call.settle(result),
    refused: undefined,
    received: 0,
    again: (go) => call.again(go),
    ...changed
  })

  const route = (call: Call, node: Node, hops: number, asking = false): TakeBack => {
    const refused = (message: string): boolean => redirect(call, node, hops, message)
    const burst = call.burst
    if (burst !== undefined) {
      return node.connection.submit(
        routed(call, {
          burst: asking ? [ASKING, ...burst] : burst,
          settle: (result) => {
            if (Either.isLeft(result)) {
              call.settle(result)
              return
            }
            const answers = (result.right as ReadonlyArray<Answer>).slice(asking ? 1 : 0)
            const message = discarded(answers)
            if (message === undefined || !refused(message)) call.settle(Either.right(answers))
          }
        })
      )
    }
    if (!asking) return node.connection.submit(routed(call, { refused }))
    return node.connection.submit(
      routed(call, {
        burst: [ASKING, call.part],
        settle: (result) => {
          if (Either.isLeft(result)) {
            call.settle(result)
            return
          }
          const answer = (result.right as ReadonlyArray<Answer>)[1]
          const wrong = answer?.problem
          if (wrong === undefined) call.settle(Either.right(answer?.reply))
          else if (!(wrong instanceof Error && refused(wrong.message))) {
            counts.refused++
            call.settle(Either.left(RedisError.fromUnknown(call.method, wrong, true)))
          }
        }
      })
    )
  }

  /** Sends a call on that a node refused because its slot is elsewhere. Says whether it is taken care of. */
  const redirect = (call: Call, node: Node, hops: number, message: string): boolean => {
    const [code, slotText, place = ""] = message.split(" ")
    const goOn = (go: () => TakeBack): boolean => {
      call.again(() => {
        counts.redirected++
        return go()
      })
      return true
    }
    switch (code) {
      case "MOVED": {
        const slot = Number(slotText)
        const to = addressOf(place, node.address.host)
        if (to === undefined || !(slot >= 0 && slot < Slots.count)) return false
        const owner = nodeAt(to)
        slots[slot] = owner
        load()
        return hops < mostHops && goOn(() => route(call, owner, hops + 1))
      }
      case "ASK": {
        const to = addressOf(place, node.address.host)
        return to !== undefined && hops < mostHops && goOn(() => route(call, nodeAt(to), hops + 1, true))
      }
      case "TRYAGAIN":
        // the keys of the command are on their way: some here, some there
        return performance.now() + movePause < call.deadline && goOn(() => pause(call))
      case "CLUSTERDOWN":
      case "READONLY":
        load()
        return false
      default:
        return call.refused?.(message) === true
    }
  }

  /** Calls that are sent again in a moment. */
  const paused = new Map<Call, ReturnType<typeof setTimeout>>()

  const pause = (call: Call): TakeBack => {
    let takeBack: TakeBack
    paused.set(
      call,
      setTimeout(() => {
        paused.delete(call)
        if (performance.now() >= call.deadline) call.settle(Either.left(tooLate(call.method)))
        else takeBack = submit(call)
      }, movePause)
    )
    return () => {
      clearTimeout(paused.get(call))
      if (!paused.delete(call)) takeBack?.()
    }
  }

  const connect = (): void => {
    if (state !== "idle") return
    become("connecting")
    load()
  }

  /** Waits for the first map. */
  const whenLoaded: Effect.Effect<void, RedisError> = Effect.suspend(() => {
    if (loaded) return Effect.void
    if (state === "closed") return notSent(counts, "Closed", "connect", "the client is released")
    if (state === "away" && core.answerAtOnce) return away("connect", problem)
    return Effect.async<void, RedisError>((resume) => {
      const end = (result: Effect.Effect<void, RedisError>): void => {
        clearTimeout(timer)
        loadWatchers.delete(watcher)
        resume(result)
      }
      const watcher = (): void => {
        if (loaded) end(Effect.void)
        else if (state === "closed") end(notSent(counts, "Closed", "connect", "the client is released"))
        else if (core.answerAtOnce) end(away("connect", problem))
      }
      const timer = setTimeout(() => end(Effect.fail(tooLate("connect"))), core.connectTimeout)
      loadWatchers.add(watcher)
      connect()
      return Effect.sync(() => {
        clearTimeout(timer)
        loadWatchers.delete(watcher)
      })
    })
  })

  let corked: ReadonlyArray<Connection.Connection> = []
  return {
    topology: "cluster",
    state: () => state,
    problem: () => problem,
    begun,
    connect,
    submit,
    cork: () => {
      corked = [...nodes.values()].map(({ connection }) => connection)
      for (const connection of corked) connection.cork()
    },
    uncork: () => {
      for (const connection of corked) connection.uncork()
      corked = []
    },
    place: (key) =>
      Effect.flatMap(whenLoaded, () => {
        const node = key === undefined ? anyNode() : slots[Slots.ofKey(key)]
        if (node === undefined) {
          load()
          return notSent(counts, "NotReady", "isolated", "no node of the Cluster has this slot")
        }
        if (node.connection.state() === "away" && core.answerAtOnce) {
          return Effect.fail(Isolated.unavailable(node.connection.problem()))
        }
        return Effect.succeed({
          id: node.id,
          attempt: { locate: Sentinel.at(targetAt(node.address)), greeting },
          onRefused: (code) => {
            if (code === "MOVED" || code === "CLUSTERDOWN" || code === "READONLY") load()
          }
        })
      }),
    listening: {
      // any node hears what is said at any other
      locate: (done) => {
        const ready = [...nodes.values()].filter(({ connection }) => connection.state() === "ready")
        const all = ready.length > 0 ? ready.map(({ address }) => address) : distinct([...known, ...settings.nodes])
        const address = all[turn++ % all.length]
        if (address !== undefined) done(Either.right(targetAt(address)))
        return () => {}
      },
      greeting
    },
    nodes: () =>
      Effect.map(whenLoaded, () =>
        [...nodes.values()].map(({ connection, id }) => {
          const { send, sendMany } = Operations.make(core, {
            submit: connection.submit,
            cork: connection.cork,
            uncork: connection.uncork,
            place: "shared"
          })
          return { id, send, sendMany }
        })
      ),
    close: () => {
      if (state === "closed") return
      stopLoading?.()
      clearTimeout(loadTimer)
      become("closed")
      const those = [...takeWaiting(), ...paused.keys()]
      for (const timer of paused.values()) clearTimeout(timer)
      paused.clear()
      for (const call of those) {
        call.settle(notSent(counts, "Closed", call.method, "the client is released"))
      }
      for (const watcher of [...loadWatchers]) watcher()
      for (const node of nodes.values()) node.connection.close()
      for (const [node, timer] of leaving) {
        clearTimeout(timer)
        node.connection.close()
      }
      leaving.clear()
    }
  }
}

const ASKING: Part = { name: "ASKING", args: [] }

/** The slots from and to, with their nodes. */
interface Range {
  readonly from: number
  readonly to: number
  readonly master: Address
  readonly replicas: ReadonlyArray<Address>
}

/** The answer to CLUSTER SLOTS. A node that does not know its own name is where it was asked. */
const rangesOf = (reply: unknown, host: string): ReadonlyArray<Range> => {
  if (!Array.isArray(reply)) return []
  const ranges: Array<Range> = []
  for (const one of reply as ReadonlyArray<unknown>) {
    if (!Array.isArray(one)) continue
    const [from, to, ...servers] = one as ReadonlyArray<unknown>
    const addresses = servers.flatMap((server) => {
      if (!Array.isArray(server)) return []
      const [name, port] = server as ReadonlyArray<unknown>
      const known = typeof name === "string" && name !== "" && name !== "?"
      return typeof port === "number" && port > 0 ? [{ host: known ? name : host, port }] : []
    })
    const [master, ...replicas] = addresses
    if (master !== undefined && typeof from === "number" && typeof to === "number") {
      ranges.push({ from: Math.max(0, from), to: Math.min(to, Slots.count - 1), master, replicas })
    }
  }
  return ranges
}

/** `host:port` as it stands in MOVED and ASK; the host is that of the node that says so where it is empty. */
const addressOf = (place: string, host: string): Address | undefined => {
  const colon = place.lastIndexOf(":")
  const port = Number(place.slice(colon + 1))
  if (colon < 0 || !Number.isInteger(port) || port < 1) return undefined
  const said = place.slice(0, colon).replace(/^\[|\]$/g, "")
  return { host: said === "" || said === "?" ? host : said, port }
}

/** Why a transaction was given up, where that is that its slot is elsewhere. */
const discarded = (answers: ReadonlyArray<Answer>): string | undefined => {
  const ended = answers[answers.length - 1]?.problem
  if (!(ended instanceof Error)) return undefined
  for (const { problem } of [...answers].reverse()) {
    if (problem instanceof Error && elsewhere.test(problem.message)) return problem.message
  }
  return undefined
}

const elsewhere = /^(?:MOVED|ASK|TRYAGAIN|CLUSTERDOWN) ?/

/** The slot of a call: -1 where it has no keys, none where they are in several. */
const slotOf = (call: Call): number | undefined => {
  let slot = -1
  for (const { args, name } of call.burst ?? [call.part]) {
    const found = slotOfKeys(Commands.keysOf(name, args), slot)
    if (found === undefined) return undefined
    slot = found
  }
  return slot
}

const slotOfKeys = (keys: ReadonlyArray<Argument>, before: number): number | undefined => {
  let slot = before
  for (const key of keys) {
    const own = Slots.ofKey(key)
    if (slot >= 0 && own !== slot) return undefined
    slot = own
  }
  return slot
}

const distinct = (addresses: ReadonlyArray<Address>): ReadonlyArray<Address> => [
  ...new Map(addresses.map((address) => [idOf(address), { host: address.host, port: address.port }])).values()
]

const rotate = <A>(all: ReadonlyArray<A>, by: number): ReadonlyArray<A> => {
  const at = all.length === 0 ? 0 : by % all.length
  return [...all.slice(at), ...all.slice(0, at)]
}

const noSlots = failure({
  reason: "NotReady",
  outcome: "not-sent",
  method: "connect",
  description: "the Cluster has no slots that are served"
})

const tooLate = (method: string): RedisError =>
  failure({
    reason: "Timeout",
    outcome: "not-sent",
    method,
    description: "no connection to the Cluster within the time"
  })
