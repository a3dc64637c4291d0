/**
 * The libraries that the conformance cases run on. A peer is there twice: as its README has it, and tuned.
 */
import { ResilienceSuite } from "@underlay/core/testing"
import * as Cockatiel from "./cockatiel.ts"
import * as Opossum from "./opossum.ts"

export const names = ["underlay", "cockatiel", "cockatiel-tuned", "opossum", "opossum-tuned"] as const

export type Name = (typeof names)[number]

export const make = (name: Name, time: ResilienceSuite.Time): ResilienceSuite.Driver => {
  switch (name) {
    case "underlay":
      return ResilienceSuite.driver(time)
    case "cockatiel":
    case "cockatiel-tuned":
      return Cockatiel.driver(time, name === "cockatiel-tuned")
    case "opossum":
    case "opossum-tuned":
      return Opossum.driver(time, name === "opossum-tuned")
  }
}
