/**
 * What runs where. Every port has one suite, and every suite runs over every topology and every driver unless a line
 * here says what is left out, and why. The files beside this one take their cells from here.
 */
import { RedisDriver } from "@underlay/redis"
import * as Ioredis6 from "ioredis6"

export const topologies = ["memory", "single", "tls", "sentinel", "cluster"] as const
export type Topology = (typeof topologies)[number]

export const drivers = ["none", "ioredis 5.11", "ioredis 6"] as const
export type Driver = (typeof drivers)[number]

/** One run of suites. `outage`, with Sentinel and a Cluster: besides, a master dies while all of them run at once. */
export interface Cell {
  readonly topology: Topology
  readonly driver: Driver
  readonly ports: "all" | ReadonlyArray<string>
  readonly outage?: true
  /** What is left out, and why. */
  readonly without?: string
}

export const matrix: ReadonlyArray<Cell> = [
  { topology: "memory", driver: "none", ports: "all" },
  { topology: "single", driver: "ioredis 5.11", ports: "all" },
  { topology: "single", driver: "ioredis 6", ports: "all" },
  { topology: "tls", driver: "ioredis 5.11", ports: "all" },
  { topology: "tls", driver: "ioredis 6", ports: "all" },
  { topology: "sentinel", driver: "ioredis 5.11", ports: "all", outage: true },
  { topology: "sentinel", driver: "ioredis 6", ports: "all", outage: true },
  { topology: "cluster", driver: "ioredis 5.11", ports: "all", outage: true },
  {
    topology: "cluster",
    driver: "ioredis 6",
    ports: "all",
    without: "the outage, half a minute: there the client acts, not the driver, and Sentinel has it with both"
  }
]

/** The cells of a topology. */
export const cells = (topology: Topology): ReadonlyArray<Cell> => matrix.filter((cell) => cell.topology === topology)

/** What speaks the protocol in a cell. */
export const driverOf = ({ driver }: Cell): RedisDriver.RedisDriver =>
  driver === "ioredis 6" ? RedisDriver.fromIoredis(Ioredis6) : RedisDriver.ioredis

/** The ports of a cell, of those that there are. */
export const portsOf = <A extends { readonly name: string }>(cell: Cell, ports: ReadonlyArray<A>): ReadonlyArray<A> =>
  cell.ports === "all" ? ports : ports.filter(({ name }) => cell.ports.includes(name))
