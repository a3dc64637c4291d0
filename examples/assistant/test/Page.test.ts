import { assert, describe, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import { Effect } from "effect"
import { type Browser, chromium, type Locator, type Page } from "playwright-core"
import * as Support from "./support.ts"

const browser = Effect.acquireRelease(
  Effect.promise(() =>
    chromium.launch({
      executablePath: Need.program("chromium") ?? "/usr/bin/chromium",
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync"
      ]
    })
  ),
  (one) => Effect.promise(() => one.close())
)

interface Opened {
  readonly page: Page
  /** What the page complained about: exceptions, console errors, blocked resources. */
  readonly complaints: Array<string>
}

/** The page in a profile of its own, ready for use. */
const open = (one: Browser, base: string, viewport = { width: 1100, height: 800 }): Effect.Effect<Opened> =>
  Effect.promise(async () => {
    const context = await one.newContext({ viewport })
    const page = await context.newPage()
    const complaints: Array<string> = []
    page.on("pageerror", (error) => complaints.push(error.message))
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text())
    })
    page.setDefaultTimeout(15_000)
    await page.goto(base)
    await page.waitForSelector("html[data-ready]")
    return { page, complaints }
  })

/** What a reader sees: hidden text is left out, which `textContent` would not do. */
// biome-ignore lint/performance/useDomNodeTextContent: it is Playwright's, and about what is shown
const shown = (locator: Locator): Promise<string> => locator.innerText()

const ask = async (page: Page, question: string): Promise<string> => {
  const before = await page.locator(".assistant").count()
  await page.fill("#question", question)
  await page.keyboard.press("Enter")
  const answer = page.locator(".assistant").nth(before)
  await answer.waitFor()
  await page.waitForFunction(() => document.querySelector(".assistant.busy") === null)
  return shown(answer)
}

describe.skipIf(Need.missing("chromium"))(Need.title("the page in Chromium", "chromium"), () => {
  layer(Support.sharedIndex, { timeout: "60 seconds", excludeTestServices: true })((it) => {
    it.scoped(
      "ask, see the answer with its sources, reload: the history is there, and so is the topic",
      () =>
        Effect.gen(function* () {
          const one = yield* browser
          yield* Effect.flatMap(Support.origin, (base) =>
            Effect.gen(function* () {
              const { complaints, page } = yield* open(one, base)
              yield* Effect.promise(async () => {
                assert.strictEqual(await page.locator(".part").count(), 4)
                assert.match(await shown(page.locator("#parts")), /sessions\s+embedded/i)
                assert.isAtLeast(await page.locator("#examples button").count(), 3)

                const answer = await ask(page, "no space left on device")
                assert.match(answer, /Disk full/)
                assert.match(answer, /local answerer/)
                const sources = page.locator(".source")
                assert.isAtLeast(await sources.count(), 2)
                await sources.nth(1).locator("summary").click()
                const section = sources.nth(1).locator(".section")
                await section.waitFor()
                assert.isAbove((await shown(section)).length, 100)

                await page.reload()
                await page.waitForSelector("html[data-ready]")
                assert.strictEqual(await shown(page.locator(".user")), "no space left on device")
                assert.match(await shown(page.locator(".assistant")), /Disk full/)
                assert.isAtLeast(await page.locator(".source").count(), 2)

                const second = await ask(page, "How do I prevent it?")
                assert.match(second, /Disk full/)

                await page.click("#fresh")
                assert.strictEqual(await page.locator(".user").count(), 0)
                assert.match(await ask(page, "How do I prevent it?"), /What do you mean/)
              })
              assert.deepStrictEqual(complaints, [])
            })
          ).pipe(Effect.provide(Support.serviceOver(Support.bare)))
        }),
      90_000
    )

    it.scoped(
      "the answer is shown while it is written, and can be stopped",
      () =>
        Effect.gen(function* () {
          const one = yield* browser
          const model = yield* Support.modelServer
          let finish = () => {}
          model.answers.push((_request, response) => {
            response.writeHead(200, { "content-type": "text/event-stream" })
            response.write(Support.chunk({ role: "assistant", content: "First half [1]," }))
            finish = () => {
              response.write(Support.chunk({ content: " second half." }))
              response.end(Support.end)
            }
          })
          model.answers.push((_request, response) => {
            response.writeHead(200, { "content-type": "text/event-stream" })
            response.write(Support.chunk({ role: "assistant", content: "It begins" }))
          })
          yield* Effect.flatMap(Support.origin, (base) =>
            Effect.gen(function* () {
              const { complaints, page } = yield* open(one, base)
              yield* Effect.promise(async () => {
                assert.match(await shown(page.locator('[data-part="answers"]')), /real/)
                await page.fill("#question", "no space left on device")
                await page.keyboard.press("Enter")
                await page.waitForFunction(() => document.querySelector(".text")?.textContent?.includes("First half"))
                assert.strictEqual(await page.locator(".assistant.busy").count(), 1)
                assert.notInclude(await shown(page.locator(".text").first()), "second half")
                assert.strictEqual(await page.locator("#send").isVisible(), false)
                finish()
                await page.waitForSelector(".assistant:not(.busy)")
                assert.include(await shown(page.locator(".text").first()), "second half.")
                assert.match(await shown(page.locator(".by")), /Answered by openai, test-model-2026/)
                await page.locator(".cite").first().click()
                assert.isTrue(
                  await page
                    .locator(".source details")
                    .first()
                    .evaluate((one) => one.hasAttribute("open"))
                )

                await page.fill("#question", "redis refuses connections")
                await page.keyboard.press("Enter")
                await page.waitForFunction(() => document.body.textContent?.includes("It begins"))
                await page.click("#stop")
                await page.waitForSelector(".failed")
                assert.match(await shown(page.locator(".failed")), /Stopped/)
              })
              assert.deepStrictEqual(complaints, [])
            })
          ).pipe(Effect.provide(Support.serviceOver(Support.withModel(model))))
        }),
      90_000
    )

    it.scoped(
      "by keyboard and by ear: parts open and close, paragraphs are told, the focus stays, a long answer begins at its top",
      () =>
        Effect.gen(function* () {
          const one = yield* browser
          yield* Effect.flatMap(Support.origin, (base) =>
            Effect.gen(function* () {
              const { complaints, page } = yield* open(one, base)
              yield* Effect.promise(async () => {
                const opened = page.locator(".part details[open]")
                const height = await page.locator("header").evaluate((header) => header.clientHeight)
                await page.locator(".part summary").first().focus()
                await page.keyboard.press("Enter")
                assert.match(await shown(opened), /REDIS_URL=/)
                await page.locator(".part summary").nth(1).press("Enter")
                assert.strictEqual(await opened.count(), 1)
                assert.match(await shown(opened), /the index that these tests share/)
                // It lies over the page: nothing moves.
                assert.strictEqual(await page.locator("header").evaluate((header) => header.clientHeight), height)
                await page.keyboard.press("Escape")
                assert.strictEqual(await opened.count(), 0)
                assert.isTrue(
                  await page
                    .locator(".part summary")
                    .nth(1)
                    .evaluate((summary) => summary === document.activeElement)
                )
                for (const name of await page.locator(".part .name").all()) {
                  assert.isTrue(await name.evaluate((element) => element.scrollWidth <= element.clientWidth))
                }

                // The button that was pressed goes away with the welcome.
                await page.locator("#examples button").nth(1).press("Enter")
                await page.waitForFunction(() => document.querySelector(".assistant:not(.busy) .sources") !== null)
                assert.strictEqual(await page.evaluate(() => document.activeElement?.id), "question")
                const asked = await page.locator(".user").boundingBox()
                const header = await page.locator("header").boundingBox()
                assert.isAtLeast(asked?.y ?? 0, header?.height ?? 0)
                assert.isBelow(asked?.y ?? 0, (header?.height ?? 0) + 60)

                const log = page.locator('#announcer[role="log"] p')
                const told = await log.allInnerTexts()
                assert.strictEqual(told[0], "Asking")
                assert.match(told.at(-1) ?? "", /^The answer is complete\. It cites \d+ sources\.$/)
                assert.isAbove(told.length, 5)
                assert.notMatch(told.join(" "), /\*\*|\[\d+\]|```/)
                assert.strictEqual(new Set(told).size, told.length)
              })
              assert.deepStrictEqual(complaints, [])
            })
          ).pipe(Effect.provide(Support.serviceOver(Support.bare)))
        }),
      90_000
    )

    it.scoped(
      "what a model writes is text: markup, scripts and links in it do nothing",
      () =>
        Effect.gen(function* () {
          const one = yield* browser
          const model = yield* Support.modelServer
          const evil =
            'A <img src=x onerror="window.hacked=1"> **<script>window.hacked=1</script>** `<b>` [x](javascript:window.hacked=1)\n\n' +
            '```html\n<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>\n```\n'
          model.answers.push(Support.says(evil))
          yield* Effect.flatMap(Support.origin, (base) =>
            Effect.gen(function* () {
              const { complaints, page } = yield* open(one, base)
              yield* Effect.promise(async () => {
                const answer = await ask(page, "disk full <img src=x onerror='window.hacked=1'> no space left")
                assert.include(answer, "<script>window.hacked=1</script>")
                assert.include(answer, "<iframe")
                assert.include(await shown(page.locator(".user")), "<img src=x")
                assert.strictEqual(
                  await page.locator("#messages img, #messages script, #messages iframe, #messages a").count(),
                  0
                )
                assert.strictEqual(await page.evaluate(() => "hacked" in window), false)
              })
              assert.deepStrictEqual(complaints, [])
            })
          ).pipe(Effect.provide(Support.serviceOver(Support.withModel(model))))
        }),
      90_000
    )

    it.scoped(
      "on a phone nothing is wider than the screen, and a service that is gone is said to be gone",
      () =>
        Effect.gen(function* () {
          const one = yield* browser
          const { page } = yield* Effect.flatMap(Support.origin, (base) =>
            Effect.gen(function* () {
              const opened = yield* open(one, base, { width: 360, height: 740 })
              yield* Effect.promise(async () => {
                await ask(opened.page, "no space left on device")
                const width = await opened.page.evaluate(() => document.documentElement.scrollWidth)
                assert.isAtMost(width, 360)
              })
              return opened
            })
          ).pipe(Effect.provide(Support.serviceOver(Support.bare)))
          yield* Effect.promise(async () => {
            await page.fill("#question", "redis refuses connections")
            await page.keyboard.press("Enter")
            await page.waitForSelector(".failed")
            assert.match(await shown(page.locator(".failed")), /cannot be reached/)
            assert.strictEqual(await shown(page.locator(".failed button")), "Ask again")
          })
        }),
      90_000
    )
  })
})
