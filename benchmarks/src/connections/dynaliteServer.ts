/** dynalite in a process of its own, so that its CPU is not that of its clients. It tells its address. */
import { Effect } from "effect"
import * as DynaliteServer from "../../../servers/src/DynaliteServer.ts"

await Effect.runPromise(
  Effect.scoped(
    Effect.flatMap(DynaliteServer.make(), ({ endpoint }) => {
      process.send?.(endpoint)
      return Effect.never
    })
  )
)
