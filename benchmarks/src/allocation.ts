/**
 * What a call allocates, and where: bytes for each call by V8's sampling heap profiler, with what was collected meanwhile,
 * and the functions that allocate most. Figures of a profiler are estimates; read the shares.
 */
import { Session } from "node:inspector/promises"
import { Policy } from "@underlay/core"
import { Effect } from "effect"
import { type Case, inFiber, keep, promised } from "./Harness.ts"
import { cockatiel, full, noop, withSignal } from "./peers.ts"

interface Node {
  readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number }
  readonly selfSize: number
  readonly children: ReadonlyArray<Node>
}

const profile = async ({ run }: Case, n: number) => {
  await run(n)
  const session = new Session()
  session.connect()
  await session.post("HeapProfiler.startSampling", {
    samplingInterval: 2048,
    includeObjectsCollectedByMajorGC: true,
    includeObjectsCollectedByMinorGC: true
  } as never)
  await run(n)
  const { profile } = (await session.post("HeapProfiler.stopSampling")) as { readonly profile: { readonly head: Node } }
  session.disconnect()
  const byFunction = new Map<string, number>()
  let total = 0
  const visit = (node: Node): void => {
    const { functionName, url } = node.callFrame
    const file = url
      .replace(/^.*\/node_modules\//, "")
      .replace(/^.*\/(packages|benchmarks)\//, "$1/")
      .replace(/\?.*$/, "")
    const name = `${functionName === "" ? "(anonymous)" : functionName}  ${file}`
    byFunction.set(name, (byFunction.get(name) ?? 0) + node.selfSize)
    total += node.selfSize
    for (const child of node.children) visit(child)
  }
  visit(profile.head)
  const top = [...byFunction].sort((a, b) => b[1] - a[1]).slice(0, 12)
  return { bytesPerCall: total / n, top: top.map(([name, bytes]) => ({ name, bytesPerCall: bytes / n })) }
}

export const run = async () => {
  const policy = await Effect.runPromise(Policy.make({ name: "bench", ...full }))
  const wrapped = cockatiel()
  const cases: ReadonlyArray<Case> = [
    inFiber("Policy.tryPromise, the call takes a signal", policy.tryPromise(withSignal)),
    inFiber("Policy.tryPromise, no signal", policy.tryPromise(noop)),
    inFiber("Policy.run, any effect", policy.run(Effect.tryPromise(noop))),
    inFiber("the effect alone", Effect.tryPromise(noop)),
    promised("cockatiel wrap(retry, breaker, timeout, bulkhead)", () => wrapped.execute(noop))
  ]
  const rows: Record<string, Awaited<ReturnType<typeof profile>>> = {}
  for (const test of cases) {
    const found = await profile(test, 20_000)
    rows[test.name] = found
    console.log(`\n${test.name}: ${Math.round(found.bytesPerCall)} bytes a call`)
    for (const each of found.top) console.log(`  ${String(Math.round(each.bytesPerCall)).padStart(6)}  ${each.name}`)
  }
  keep("allocation", rows)
}
