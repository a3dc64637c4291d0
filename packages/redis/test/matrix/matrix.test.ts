/** The list is whole: no suite, no topology and no driver is missing without a word. */
import * as Fs from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import * as testing from "@underlay/core/testing"
import * as Matrix from "./matrix.ts"
import { ports } from "./ports.ts"

/** Suites of what has nothing to do with Redis, and what is no suite of a port. */
const others = ["ConnectionSuite", "ObjectStoreSuite", "ResilienceSuite", "Suite", "VectorStoreSuite"]

describe("the matrix", () => {
  it("every suite of core is that of a port here, and every port is there once", () => {
    const suites = Object.keys(testing).filter((name) => name.endsWith("Suite") && !others.includes(name))
    assert.sameMembers([...new Set(ports.map(({ suite }) => suite))], suites)
    assert.strictEqual(new Set(ports.map(({ name }) => name)).size, ports.length)
  })

  it("every port has cases in memory and on Redis", () => {
    for (const { memory, name, redis } of ports) {
      assert.isAbove(memory.length, 0, name)
      assert.isAtLeast(redis.length, memory.length, name)
    }
  })

  it("every topology has every driver, once, and its file; what is left out says why", () => {
    const wanted = Matrix.topologies.flatMap((topology) =>
      (topology === "memory" ? ["none"] : ["ioredis 5.11", "ioredis 6"]).map((driver) => `${topology}, ${driver}`)
    )
    assert.sameMembers(
      Matrix.matrix.map(({ driver, topology }) => `${topology}, ${driver}`),
      wanted
    )
    for (const topology of Matrix.topologies) {
      const text = Fs.readFileSync(new URL(`${topology}.test.ts`, import.meta.url), "utf8")
      assert.include(text, `Matrix.cells("${topology}")`)
    }
    for (const cell of Matrix.matrix) {
      const { driver, ports: some, outage, topology, without } = cell
      const whole = some === "all" && (outage === true || (topology !== "sentinel" && topology !== "cluster"))
      assert.strictEqual(whole, without === undefined, `${topology}, ${driver}`)
      for (const name of cell.ports === "all" ? [] : cell.ports)
        assert.include(
          ports.map((port) => port.name),
          name
        )
    }
  })
})
