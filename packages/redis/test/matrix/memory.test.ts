import { describe, it } from "@effect/vitest"
import * as Matrix from "./matrix.ts"
import { ports } from "./ports.ts"

for (const cell of Matrix.cells("memory")) {
  for (const port of Matrix.portsOf(cell, ports)) {
    describe(`${port.name} in memory`, () => {
      for (const one of port.memory) it.effect(one.name, () => one.run)
    })
  }
}
