/**
 * All cases on the library that the argument names, told to the parent process. Its timers are replaced, for good.
 */
import { ResilienceSuite } from "@underlay/core/testing"
import { Effect } from "effect"
import { make, names } from "./drivers.ts"
import * as FakeTime from "./FakeTime.ts"

const name = names.find((each) => each === process.argv[2])
if (name === undefined) throw new Error(`No such library: ${process.argv[2]}. There are: ${names.join(", ")}.`)

// What a library leaves unhandled is for the cases to find: it must not end them.
process.on("unhandledRejection", () => {})
const driver = make(name, FakeTime.install())
const outcomes: Array<ResilienceSuite.Outcome> = []
for (const one of ResilienceSuite.cases) outcomes.push(await Effect.runPromise(ResilienceSuite.run(one, driver)))
process.send?.(outcomes, () => process.exit(0))
