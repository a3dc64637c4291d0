/** The driver's sockets, counted by the events of its pools. */
import type { ConnectionStats } from "@underlay/core/connection/Connection"
import type * as Mongo from "mongodb"

export interface PoolCounts {
  readonly follow: (client: Mongo.MongoClient) => void
  /** One operation more, or less, that needs a socket. */
  readonly enter: () => void
  readonly leave: () => void
  readonly read: () => ConnectionStats
}

export const makePoolCounts = (): PoolCounts => {
  let total = 0
  let inUse = 0
  let asking = 0
  const acquire = { count: 0, totalMs: 0, maxMs: 0 }
  return {
    follow: (client) => {
      client.on("connectionCreated", () => {
        total++
      })
      client.on("connectionClosed", () => {
        total--
      })
      client.on("connectionCheckedOut", ({ durationMS }) => {
        inUse++
        acquire.count++
        acquire.totalMs += durationMS
        acquire.maxMs = Math.max(acquire.maxMs, durationMS)
      })
      client.on("connectionCheckedIn", () => {
        inUse--
      })
    },
    enter: () => {
      asking++
    },
    leave: () => {
      asking--
    },
    // Who gives up waiting is not told of by the driver, so who waits is who asked and has none.
    read: () => ({
      total,
      idle: Math.max(0, total - inUse),
      inUse,
      waiting: Math.max(0, asking - inUse),
      acquire: { ...acquire }
    })
  }
}
