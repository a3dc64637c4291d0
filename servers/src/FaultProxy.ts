/**
 * A TCP proxy in this process, to be put in front of a server: it resets connections, loses replies to what the server
 * did, falls silent, is slow, cuts what it forwards to pieces, refuses connections, closes them by half and leaves them half
 * open. What flows is bytes to it, so TLS passes too.
 */
import * as Net from "node:net"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./internal/machine.ts"

/** The proxy could not listen. */
export class FaultProxyError extends Data.TaggedError("FaultProxyError")<{
  readonly description: string
}> {
  override get message(): string {
    return this.description
  }
}

/** Where the proxy stands. */
export interface FaultProxyOptions {
  /** The server behind it. */
  readonly host?: string | undefined
  readonly port: number
  /** The port on which the proxy listens. Default: a free one. */
  readonly listen?: number | undefined
  /**
   * Leaves connections alone on which a replica follows a master (they say REPLCONF): for a proxy that a node of a
   * cluster announces, so that faults meet clients alone. Default: false.
   */
  readonly spareReplication?: boolean | undefined
}

/** Which way bytes flow: requests from the client to the server, replies back. */
export type Direction = "requests" | "replies"

/** What went through, since the proxy was made. */
export interface FaultProxyCounts {
  /** Connections that were accepted. */
  readonly accepted: number
  /** Connections that are open, but for those that are half open. */
  readonly open: number
  /** Connections that were left half open. */
  readonly halfOpen: number
  /** Connections that the proxy reset. */
  readonly reset: number
  /** Bytes that were handed on, by direction. */
  readonly requestBytes: number
  readonly replyBytes: number
  /** Bytes of replies that the server gave and no client got. */
  readonly lostBytes: number
}

/** A proxy and its faults. A fault stays until it is switched off; several can be on at once. */
export interface FaultProxy {
  readonly host: string
  readonly port: number
  /** Resets (RST) every open connection, on both sides. Gives how many there were. */
  readonly resetAll: Effect.Effect<number>
  /**
   * Resets each of the connections that are open now when so many more bytes of replies have come from the server; the
   * rest is lost. With 0 nothing of the next reply gets through: the server did what it was asked, nobody knows.
   * Connections that are made later are not concerned, unless `later` is set.
   */
  readonly resetAfter: (bytes: number, options?: { readonly later?: boolean | undefined }) => Effect.Effect<void>
  /** Requests are handed on, the replies are thrown away; the connections stay open. */
  readonly swallowReplies: (on: boolean) => Effect.Effect<void>
  /**
   * Nothing is handed on and nobody is told, as when a cable is cut: connections are accepted by the kernel and silent.
   * What was sent meanwhile arrives when it is switched off. By default both ways.
   */
  readonly blackhole: (on: boolean, direction?: Direction) => Effect.Effect<void>
  /** Everything arrives so many milliseconds later, in each direction. 0 switches it off. */
  readonly latency: (millis: number) => Effect.Effect<void>
  /** Hands on at most so many bytes at a time, each piece in a write of its own. 0 switches it off. */
  readonly slice: (bytes: number) => Effect.Effect<void>
  /** Refuses new connections (ECONNREFUSED). Open ones stay: `resetAll` ends them. */
  readonly refuse: (on: boolean) => Effect.Effect<void, FaultProxyError>
  /** Resets new connections once they are made, before anything is forwarded. */
  readonly resetNew: (on: boolean) => Effect.Effect<void>
  /**
   * Sends the clients of all open connections a FIN: the proxy says nothing more and still takes and forwards requests.
   * Gives how many there were.
   */
  readonly halfClose: Effect.Effect<number>
  /**
   * The peer vanishes without a word, as when its machine or a router in between is gone: what clients say on the
   * connections that are open is taken and thrown away, and nothing, no FIN and no RST, ever comes back, also not after it is
   * switched off. New ones are the same as long as it is on. The server behind sees its connections reset. Gives how many
   * there were.
   */
  readonly halfOpen: (on: boolean) => Effect.Effect<number>
  /** Sends new connections to another server, as an address does that moves. Open ones stay where they are. */
  readonly retarget: (server: { readonly host?: string | undefined; readonly port: number }) => Effect.Effect<void>
  /** Switches all faults off. */
  readonly calm: Effect.Effect<void, FaultProxyError>
  readonly counts: Effect.Effect<FaultProxyCounts>
}

/** One direction of one connection: takes chunks from a socket and hands them to another, in order. */
interface Pipe {
  /** Looks at the faults anew, for they were changed. */
  readonly refresh: () => void
  readonly stop: () => void
}

interface Link {
  readonly client: Net.Socket
  spared: boolean
  /** How many bytes of replies are left until it is reset. */
  fuse: number | undefined
  readonly refresh: () => void
  readonly reset: () => void
  readonly halfClose: () => void
  readonly vanish: () => void
}

/** Starts a proxy for the life of the scope. */
export const make = (options: FaultProxyOptions): Effect.Effect<FaultProxy, FaultProxyError, Scope.Scope> =>
  Effect.gen(function* () {
    let target = { host: options.host ?? Machine.host, port: options.port }
    const links = new Set<Link>()
    const faults = {
      silent: { requests: false, replies: false },
      swallow: false,
      latency: 0,
      slice: 0,
      resetNew: false,
      halfOpen: false,
      laterFuse: undefined as number | undefined
    }
    /** Sockets of clients whose peer vanished: kept, for to let go of them would tell the client. */
    const vanished = new Set<Net.Socket>()
    const counts = { accepted: 0, reset: 0, halfOpen: 0, requestBytes: 0, replyBytes: 0, lostBytes: 0 }

    /** Takes what the client says and never answers, its end included. */
    const forsake = (client: Net.Socket): void => {
      counts.halfOpen++
      vanished.add(client)
      client.on("close", () => vanished.delete(client))
      client.removeAllListeners("data")
      client.removeAllListeners("end")
      client.resume()
    }

    const open = (client: Net.Socket): void => {
      counts.accepted++
      client.on("error", () => {})
      if (faults.resetNew) {
        counts.reset++
        client.resetAndDestroy()
        return
      }
      if (faults.halfOpen) {
        forsake(client)
        return
      }
      client.setNoDelay(true)
      client.pause()
      let upstream: Net.Socket | undefined
      let pipes: ReadonlyArray<Pipe> = []
      let removed = false

      const remove = (): void => {
        removed = true
        for (const pipe of pipes) pipe.stop()
        links.delete(link)
      }
      const reset = (): void => {
        if (removed) return
        remove()
        counts.reset++
        client.resetAndDestroy()
        upstream?.resetAndDestroy()
      }
      /** A side that broke breaks the other; one that ended was followed by the other's end, in its turn. */
      const closed = (other: Net.Socket | undefined, broken: boolean): void => {
        if (removed) return
        if (broken) {
          remove()
          other?.resetAndDestroy()
        } else if (other === undefined || other.closed) remove()
      }

      const link: Link = {
        client,
        spared: false,
        fuse: faults.laterFuse,
        reset,
        refresh: () => {
          if (upstream === undefined) connect()
          for (const pipe of pipes) pipe.refresh()
        },
        halfClose: () => {
          if (!client.writableEnded) client.end()
        },
        vanish: () => {
          if (removed || link.spared) return
          remove()
          upstream?.resetAndDestroy()
          forsake(client)
        }
      }
      links.add(link)
      client.on("close", (broken) => closed(upstream, broken))

      /** What of the replies gets through. */
      const filterReplies = (chunk: Buffer): ReadonlyArray<Buffer | "reset"> => {
        if (link.spared) return [chunk]
        const through =
          link.fuse !== undefined
            ? chunk.subarray(0, link.fuse)
            : faults.swallow || client.writableEnded
              ? chunk.subarray(0, 0)
              : chunk
        counts.lostBytes += chunk.length - through.length
        counts.replyBytes += through.length
        if (link.fuse === undefined) return through.length === 0 ? [] : [through]
        link.fuse -= through.length
        return link.fuse === 0 ? [through, "reset"] : [through]
      }
      const filterRequests = (chunk: Buffer): ReadonlyArray<Buffer> => {
        if (options.spareReplication === true && !link.spared && /REPLCONF|PSYNC/i.test(chunk.toString("latin1"))) {
          link.spared = true
        }
        counts.requestBytes += chunk.length
        return [chunk]
      }

      /** In a blackhole not even the connection behind is made. */
      const connect = (): void => {
        if (removed || client.destroyed || faults.silent.requests) return
        const server = Net.connect({ host: target.host, port: target.port, allowHalfOpen: true })
        upstream = server
        server.setNoDelay(true)
        server.on("error", () => {})
        server.on("close", (broken) => closed(client, broken))
        const seen = (direction: Direction) => (): Faults =>
          link.spared ? calm : { ...faults, silent: faults.silent[direction] }
        pipes = [
          pipe(client, server, filterRequests, seen("requests"), reset),
          pipe(server, client, filterReplies, seen("replies"), reset)
        ]
      }
      connect()
    }

    let server: Net.Server | undefined
    let port = options.listen ?? (yield* Machine.freePort)
    const listen: Effect.Effect<void, FaultProxyError> = Effect.async((resume) => {
      if (server !== undefined) {
        resume(Effect.void)
        return
      }
      const created = Net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, open)
      created.once("error", (error) => resume(Effect.fail(new FaultProxyError({ description: error.message }))))
      created.listen(port, Machine.host, () => {
        server = created
        resume(Effect.void)
      })
    })
    const refuseNow = Effect.sync(() => {
      server?.close()
      server = undefined
    })
    const listenFirst = (left: number): Effect.Effect<void, FaultProxyError> =>
      Effect.catchIf(
        listen,
        () => left > 0 && options.listen === undefined,
        () =>
          Effect.flatMap(Machine.freePort, (another) => {
            port = another
            return listenFirst(left - 1)
          })
      )
    const resetAll = Effect.sync(() => {
      const all = [...links]
      for (const link of all) link.reset()
      return all.length
    })
    const forget = Effect.sync(() => {
      for (const client of vanished) client.destroy()
    })
    yield* Effect.acquireRelease(listenFirst(5), () => Effect.zipRight(refuseNow, Effect.zipRight(resetAll, forget)))

    const refresh = (): void => {
      for (const link of [...links]) link.refresh()
    }
    const refuse: FaultProxy["refuse"] = (on) => (on ? refuseNow : listen)

    return {
      host: Machine.host,
      port,
      resetAll,
      resetAfter: (bytes, rule) =>
        Effect.sync(() => {
          if (rule?.later === true) faults.laterFuse = bytes
          for (const link of links) link.fuse = bytes
        }),
      swallowReplies: (on) =>
        Effect.sync(() => {
          faults.swallow = on
        }),
      blackhole: (on, direction) =>
        Effect.sync(() => {
          if (direction !== "replies") faults.silent.requests = on
          if (direction !== "requests") faults.silent.replies = on
          refresh()
        }),
      latency: (millis) =>
        Effect.sync(() => {
          faults.latency = millis
          refresh()
        }),
      slice: (bytes) =>
        Effect.sync(() => {
          faults.slice = bytes
        }),
      refuse,
      resetNew: (on) =>
        Effect.sync(() => {
          faults.resetNew = on
        }),
      halfClose: Effect.sync(() => {
        const all = [...links]
        for (const link of all) link.halfClose()
        return all.length
      }),
      halfOpen: (on) =>
        Effect.sync(() => {
          faults.halfOpen = on
          if (!on) return 0
          const all = [...links].filter((link) => !link.spared)
          for (const link of all) link.vanish()
          return all.length
        }),
      retarget: (other) =>
        Effect.sync(() => {
          target = { host: other.host ?? Machine.host, port: other.port }
        }),
      calm: Effect.suspend(() => {
        faults.silent = { requests: false, replies: false }
        faults.swallow = false
        faults.latency = 0
        faults.slice = 0
        faults.resetNew = false
        faults.halfOpen = false
        faults.laterFuse = undefined
        for (const link of links) link.fuse = undefined
        refresh()
        return listen
      }),
      counts: Effect.sync(() => ({ ...counts, open: [...links].filter((link) => !link.client.destroyed).length }))
    }
  })

interface Faults {
  readonly silent: boolean
  readonly latency: number
  readonly slice: number
}

const calm: Faults = { silent: false, latency: 0, slice: 0 }

/**
 * Hands on what `from` says to `to`, as the faults of the moment want it. While it is silent it does not read: the
 * kernel's buffers fill and the sender notices nothing else, as with a cable that is cut.
 */
const pipe = (
  from: Net.Socket,
  to: Net.Socket,
  filter: (chunk: Buffer) => ReadonlyArray<Buffer | "reset">,
  faults: () => Faults,
  reset: () => void
): Pipe => {
  const waiting: Array<{ readonly what: Buffer | "end" | "reset"; readonly due: number }> = []
  let waitingBytes = 0
  let cancel: (() => void) | undefined
  let stopped = false
  let blocked = false
  let handedOn = false

  const later = (millis: number): void => {
    const timer = setTimeout(work, millis)
    cancel = () => clearTimeout(timer)
  }
  const next = (): void => {
    const immediate = setImmediate(work)
    cancel = () => clearImmediate(immediate)
  }
  /** Reads on only where there is room, so that a sender is held up as it is by the network. */
  const flow = (): void => {
    if (stopped) return
    if (faults().silent || blocked || waitingBytes > room) from.pause()
    else from.resume()
  }
  const write = (piece: Buffer): void => {
    handedOn = true
    waitingBytes -= piece.length
    if (to.writableEnded || to.write(piece)) return
    blocked = true
    to.once("drain", () => {
      blocked = false
      if (cancel === undefined) work()
    })
  }
  const work = (): void => {
    cancel = undefined
    while (!stopped && !blocked) {
      const { latency, silent, slice } = faults()
      const head = waiting[0]
      if (head === undefined || silent) break
      const now = performance.now()
      const early = Math.min(head.due, now + latency) - now
      if (early > 0) {
        later(Math.ceil(early))
        break
      }
      waiting.shift()
      if (head.what === "end") {
        if (!to.writableEnded) to.end()
      } else if (head.what === "reset") {
        // A reset overtakes what is not sent yet, and a client that finds both at once in its socket takes the reset for
        // an end.
        if (handedOn) setTimeout(reset, 5)
        else reset()
        break
      } else if (slice > 0 && head.what.length > slice) {
        waiting.unshift({ what: head.what.subarray(slice), due: 0 })
        write(head.what.subarray(0, slice))
        next()
        break
      } else write(head.what)
    }
    flow()
  }
  const take = (what: Buffer | "end" | "reset"): void => {
    waiting.push({ what, due: performance.now() + faults().latency })
    if (typeof what !== "string") waitingBytes += what.length
  }
  const turn = (): void => {
    if (cancel === undefined) work()
  }
  from.on("data", (chunk: Buffer) => {
    if (stopped) return
    handedOn = waiting.length > 0
    for (const what of filter(chunk)) if (what.length > 0) take(what)
    turn()
  })
  from.on("end", () => {
    take("end")
    turn()
  })
  flow()
  return {
    refresh: () => {
      cancel?.()
      work()
    },
    stop: () => {
      stopped = true
      cancel?.()
    }
  }
}

/** How many bytes a direction holds before its sender is held up. */
const room = 1_048_576
