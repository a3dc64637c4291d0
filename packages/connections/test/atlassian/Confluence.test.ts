import { assert, describe, it, layer } from "@effect/vitest"
import { Connections } from "@underlay/core"
import { ConnectionSuite, RecordingTracer, Suite } from "@underlay/core/testing"
import * as Need from "@underlay/servers/Need"
import { Cause, ConfigProvider, Effect, Exit, Fiber, Layer, Option, Redacted, Stream } from "effect"
import { Confluence, StorageFormat } from "../../src/index.ts"
import * as ConfluenceDouble from "./ConfluenceDouble.ts"
import type { HttpDouble } from "./HttpDouble.ts"

const settingsFor = (double: HttpDouble): Confluence.ConfluenceSettings => ({
  url: double.origin,
  allowInsecureLoopback: true,
  token: Redacted.make("good-token")
})

/** Waits for something outside, whatever the clock of the test says. */
const until = (done: () => boolean) =>
  Effect.promise(async () => {
    for (let tries = 0; !done(); tries++) {
      if (tries > 2_000) throw new Error("it did not come to pass")
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  })

/** A double with some pages, a client of it, and at the end: all that was said was as described, and no socket is left. */
const withConfluence = <A, E>(
  use: (confluence: Confluence.ConfluenceClient, double: ConfluenceDouble.ConfluenceDouble) => Effect.Effect<A, E>,
  options: { readonly pages?: number; readonly settings?: Partial<Confluence.ConfluenceSettings> } = {}
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const double = yield* ConfluenceDouble.start(options.pages ?? 3)
      const given = yield* Effect.scoped(
        Effect.flatMap(Confluence.make({ ...settingsFor(double), ...options.settings }), ({ client }) =>
          use(client, double)
        )
      )
      assert.deepStrictEqual(double.api?.problems.slice(0, 3).join("; "), "")
      yield* until(() => double.sockets() === 0 && double.media.sockets() === 0)
      return given
    })
  )

describe("Confluence settings", () => {
  it.live.skipIf(Need.missing("openapi"))(
    Need.title("the address may be the one of the browser, with /wiki", "openapi"),
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const double = yield* ConfluenceDouble.start()
          const { client } = yield* Confluence.make({ ...settingsFor(double), url: `${double.origin}/wiki/` })
          assert.strictEqual(yield* Stream.runCount(client.spaces()), 3)
        })
      )
  )

  it.live("what cannot work is refused, and nothing is sent", () =>
    Effect.gen(function* () {
      const token = Redacted.make("a-secret-token")
      for (const settings of [
        { token },
        { token, url: "http://a.atlassian.net/wiki" },
        { token, url: "https://api.atlassian.com/ex/jira/1" },
        { token, url: "https://a.atlassian.net/wiki/api/v2" }
      ]) {
        const error = yield* Effect.scoped(Effect.flip(Confluence.make(settings)))
        assert.strictEqual(error.reason, "InvalidSettings")
        assert.notInclude(String(error), "a-secret-token")
      }
    })
  )
})

describe.skipIf(Need.missing("openapi"))(Need.title("Confluence, on a double of it", "openapi"), () => {
  layer(Layer.empty, { excludeTestServices: true, timeout: "30 seconds" })("the suite", (it) => {
    const suite = ConnectionSuite.suite({
      make: Effect.flatMap(ConfluenceDouble.start(), (double) => Confluence.make(settingsFor(double))),
      ask: (confluence: Confluence.ConfluenceClient) => Stream.runCount(confluence.spaces()),
      expected: 3
    })
    for (const one of Suite.applicable(suite, [])) it.effect(one.name, () => one.run, 30_000)
  })

  it.live("is made by its name and kind, with the settings of a configuration", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const double = yield* ConfluenceDouble.start()
        const provider = ConfigProvider.fromMap(
          new Map([
            ["connections.wiki.url", double.origin],
            ["connections.wiki.email", "me@example.com"],
            ["connections.wiki.token", "api-token"],
            ["connections.wiki.allowInsecureLoopback", "true"]
          ])
        )
        yield* Effect.gen(function* () {
          const connections = yield* Connections.make([Confluence.kind])
          const connection = yield* connections.get(Confluence.kind, "wiki")
          assert.strictEqual(yield* connection.use((wiki) => Stream.runCount(wiki.spaces())), 3)
        }).pipe(Effect.scoped, Effect.withConfigProvider(provider))
      })
    )
  )

  describe("pages", () => {
    it.live("are listed whole, by cursors, and a page is asked for when it is wanted", () =>
      withConfluence(
        (confluence, double) =>
          Effect.gen(function* () {
            const all = yield* Stream.runCollect(confluence.pages({ spaceId: "1", pageSize: 7 }))
            assert.strictEqual(new Set(Array.from(all, ({ id }) => id)).size, 30)
            const before = double.asked.length
            yield* Stream.runDrain(Stream.take(confluence.pages({ pageSize: 7 }), 3))
            assert.strictEqual(double.asked.length, before + 1)
          }),
        { pages: 30 }
      )
    )

    for (const how of ["the same", "again"] as const) {
      it.live(`end where the service goes in circles: ${how}`, () =>
        withConfluence(
          (confluence, double) => {
            double.links = how
            return Effect.map(Effect.flip(Stream.runDrain(confluence.pages({ pageSize: 5 }))), (error) => {
              assert.include(error.description, "circles")
              assert.isBelow(double.asked.length, 6)
            })
          },
          { pages: 30 }
        )
      )
    }

    it.live("go on over empty ones, however many, where each leads to another", () =>
      withConfluence(
        (confluence, double) => {
          double.links = "150 empty pages"
          return Effect.map(Stream.runCount(confluence.pages({ pageSize: 10 })), (count) =>
            assert.strictEqual(count, 30)
          )
        },
        { pages: 30 }
      )
    )

    it.live("a link to another host leads there no request", () =>
      withConfluence(
        (confluence, double) => {
          double.links = "another host"
          return Effect.map(Stream.runCount(confluence.pages({ pageSize: 10 })), (count) => {
            assert.strictEqual(count, 30)
            assert.strictEqual(double.media.asked.length, 0)
          })
        },
        { pages: 30 }
      )
    )

    it.live("are made, found, read in each format, and deleted", () =>
      withConfluence((confluence) =>
        Effect.gen(function* () {
          const space = Option.getOrThrow(yield* confluence.findSpace("DOC"))
          const body = yield* StorageFormat.fromMarkdown("# Hello\n\n```ts\nlet a = 1\n```\n")
          const made = yield* confluence.createPage({ spaceId: space.id, title: "New", body })
          const page = yield* confluence.getPage(made.id, { bodyFormat: "storage" })
          assert.strictEqual(
            yield* StorageFormat.toMarkdown(page.body?.storage?.value ?? ""),
            "# Hello\n\n```ts\nlet a = 1\n```\n"
          )
          assert.isString((yield* confluence.getPage(made.id, { bodyFormat: "view" })).body?.view?.value)
          assert.isString(
            (yield* confluence.getPage(made.id, { bodyFormat: "atlas_doc_format" })).body?.atlas_doc_format?.value
          )
          const found = yield* confluence.findPage(space.id, "New", { bodyFormat: "storage" })
          assert.strictEqual(Option.getOrThrow(found).id, made.id)
          assert.isTrue(Option.isNone(yield* confluence.findPage(space.id, "None")))
          assert.isTrue(Option.isNone(yield* confluence.findSpace("NONE")))
          assert.strictEqual((yield* confluence.getSpace("1")).key, "DOC")
          assert.strictEqual(yield* Stream.runCount(confluence.children("100")), 3)
          yield* confluence.deletePage(made.id)
          yield* confluence.deletePage(made.id, { purge: true })
          assert.strictEqual((yield* Effect.flip(confluence.getPage(made.id))).reason, "NotFound")
        })
      )
    )

    it.live("names of refused fields are told, what was in them is not", () =>
      withConfluence((confluence) =>
        Effect.gen(function* () {
          const error = yield* Effect.flip(confluence.createPage({ spaceId: "1", title: "Page 1" }))
          assert.strictEqual(error.reason, "InvalidRequest")
          assert.strictEqual(error.code, "INVALID_REQUEST_PARAMETER")
          assert.include(error.description, "field title")
          assert.notInclude(JSON.stringify(error), "secret")
        })
      )
    )

    for (const tells of [true, false]) {
      it.live(
        `a version that is old is a Conflict with the current one, which Confluence ${tells ? "tells" : "does not tell"}`,
        () =>
          withConfluence((confluence, double) =>
            Effect.gen(function* () {
              double.tellsVersion = tells
              const update = { id: "101", title: "Changed", body: "<p>a</p>" }
              yield* confluence.updatePage({ ...update, version: 1, message: "first" })
              yield* confluence.updatePage({ ...update, version: 2 })
              const error = yield* Effect.flip(confluence.updatePage({ ...update, version: 1 }))
              assert.strictEqual(error.reason, "Conflict")
              assert.deepStrictEqual(Confluence.conflictVersion(error), Option.some(3))
              assert.strictEqual(double.pages.get("101")?.version, 3)
            })
          )
      )
    }

    it.live("updateWith: of twenty writers none loses what another wrote", () =>
      withConfluence((confluence, double) =>
        Effect.gen(function* () {
          const add = (word: string) =>
            confluence.updateWith(
              "101",
              (page) => Effect.succeed({ body: `${page.body?.storage?.value}<p>${word}</p>` }),
              { attempts: 100 }
            )
          const words = Array.from({ length: 20 }, (_, at) => `word-${at}-`)
          yield* Effect.forEach(words, add, { concurrency: "unbounded" })
          const text = double.pages.get("101")?.storage ?? ""
          for (const word of words) assert.strictEqual(text.split(word).length, 2)
          assert.strictEqual(double.pages.get("101")?.version, 21)
        })
      )
    )

    it.live("a value that has no form in JSON is refused before it is sent", () =>
      withConfluence((confluence, double) =>
        Effect.gen(function* () {
          const circular: Record<string, unknown> = { words: "confidential" }
          circular["self"] = circular
          for (const value of [circular, 1n]) {
            const error = yield* Effect.flip(confluence.setProperty("101", "state", value))
            assert.strictEqual(error.reason, "InvalidRequest")
            assert.notInclude(error.message, "confidential")
          }
          assert.isFalse(double.asked.some(({ body }) => body.length > 0))
        })
      )
    )

    it.live(
      "updateWith keeps what is not changed, gives up after its attempts, and fails with the failure of the user",
      () =>
        withConfluence((confluence, double) =>
          Effect.gen(function* () {
            yield* confluence.updateWith("101", () => Effect.succeed({ title: "Other" }), { message: "renamed" })
            assert.strictEqual(double.pages.get("101")?.title, "Other")
            assert.strictEqual(double.pages.get("101")?.storage, "<p>Text 1</p>")
            assert.strictEqual(double.pages.get("101")?.message, "renamed")
            let runs = 0
            const error = yield* Effect.flip(
              confluence.updateWith(
                "101",
                () =>
                  Effect.sync(() => {
                    runs++
                    const page = double.pages.get("101")
                    if (page !== undefined) page.version++
                    return { body: "<p>late</p>" }
                  }),
                { attempts: 3 }
              )
            )
            assert.strictEqual(runs, 3)
            assert.strictEqual(error.reason, "Conflict")
            assert.strictEqual(
              yield* Effect.flip(confluence.updateWith("101", () => Effect.fail("mine" as const))),
              "mine"
            )
          })
        )
    )
  })

  it.live("labels, properties and comments", () =>
    withConfluence((confluence, double) =>
      Effect.gen(function* () {
        yield* confluence.addLabels("101", ["one", "two"])
        yield* confluence.removeLabel("101", "one")
        assert.deepStrictEqual(
          Array.from(yield* Stream.runCollect(confluence.labels("101")), ({ name }) => name),
          ["two"]
        )
        yield* confluence.setProperty("101", "state", { a: 1 })
        const second = yield* confluence.setProperty("101", "state", { a: 2 })
        assert.strictEqual(second.version?.number, 2)
        assert.deepStrictEqual(Option.getOrThrow(yield* confluence.getProperty("101", "state")).value, { a: 2 })
        yield* confluence.deleteProperty("101", second.id)
        assert.strictEqual(yield* Stream.runCount(confluence.properties("101")), 0)

        const comment = yield* confluence.addComment({ pageId: "101" }, "<p>first</p>")
        yield* confluence.addComment({ parentCommentId: comment.id }, "<p>answer</p>")
        yield* confluence.updateComment({ id: comment.id, version: 1, body: "<p>better</p>" })
        const late = yield* Effect.flip(confluence.updateComment({ id: comment.id, version: 1, body: "<p>late</p>" }))
        assert.deepStrictEqual(Confluence.conflictVersion(late), Option.some(2))
        const [only] = yield* Stream.runCollect(confluence.comments("101"))
        assert.strictEqual(only?.body?.storage?.value, "<p>better</p>")
        yield* confluence.deleteComment(comment.id)
        assert.strictEqual((yield* Effect.flip(confluence.deleteComment(comment.id))).reason, "NotFound")
        // These alone are in no description that is at hand.
        assert.isTrue([...(double.api?.undescribed ?? [])].every((path) => path.includes("/rest/api/")))
      })
    )
  )

  it.live("files go up as streams, get versions, and come back without the token at the other host", () =>
    withConfluence((confluence, double) =>
      Effect.gen(function* () {
        const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, at) => (at * 7) % 256))
        const content = Stream.fromIterable([bytes.subarray(0, 100_000), bytes.subarray(100_000)])
        const [file] = yield* confluence.addAttachments("101", [{ name: "a b.bin", content }], { comment: "the first" })
        assert.strictEqual(file?.fileSize, bytes.length)
        const refused = yield* Effect.flip(confluence.addAttachments("101", [{ name: "a b.bin", content: bytes }]))
        assert.strictEqual(refused.reason, "InvalidRequest")
        const [again] = yield* confluence.addAttachments("101", [{ name: "a b.bin", content: bytes }], {
          replace: true
        })
        assert.strictEqual(again?.version?.number, 2)
        const back = yield* Stream.runCollect(confluence.download(file?.id ?? ""))
        assert.isTrue(Buffer.concat([...back]).equals(bytes))
        assert.strictEqual(double.media.asked.length, 1)
        assert.isUndefined(double.media.asked[0]?.headers.authorization)
        assert.strictEqual(yield* Stream.runCount(confluence.attachments("101", { filename: "a b.bin" })), 1)
        yield* confluence.deleteAttachment(file?.id ?? "")
        assert.strictEqual(yield* Stream.runCount(confluence.attachments("101")), 0)
      })
    )
  )

  it.live("an upload is sent once, whatever the answer is: a stream that was read is never sent again", () =>
    withConfluence((confluence, double) =>
      Effect.gen(function* () {
        for (const replace of [false, true]) {
          let read = 0
          const content = Stream.tap(Stream.make(new Uint8Array(10)), () => Effect.sync(() => read++))
          double.next(({ url }, response) => {
            if (!url.pathname.endsWith("/attachment")) return false
            response.writeHead(503, { "retry-after": "0" }).end()
            return true
          })
          const error = yield* Effect.flip(confluence.addAttachments("101", [{ name: "a", content }], { replace }))
          assert.strictEqual(error.reason, "Throttled")
          assert.strictEqual(read, 1)
        }
      })
    )
  )

  it.live("search finds all, and a query that is refused is not repeated", () =>
    withConfluence(
      (confluence) =>
        Effect.gen(function* () {
          const { cql } = Confluence
          assert.strictEqual(
            yield* Stream.runCount(confluence.search(cql.contains("text", "Text"), { pageSize: 10 })),
            60
          )
          const error = yield* Effect.flip(Stream.runDrain(confluence.search("nonsense")))
          assert.include(error.description, "query")
          assert.notInclude(JSON.stringify(error), "secret")
        }),
      { pages: 60 }
    )
  )

  it("cql quotes what comes from outside", () => {
    const { cql } = Confluence
    assert.strictEqual(cql.eq("space", 'A" or 1'), 'space = "A\\" or 1"')
    assert.strictEqual(cql.eq('a" or b', 1), '"a\\" or b" = 1')
    assert.strictEqual(
      cql.orderBy(cql.and(cql.eq("type", "page"), cql.gte("lastmodified", cql.call("now", "-4w"))), [
        "created",
        "desc"
      ]),
      '(type = "page") AND (lastmodified >= now("-4w")) ORDER BY created DESC'
    )
    assert.strictEqual(cql.in("space", []), "id = 0")
  })

  it.live("a read is tried again after 503 and a broken connection, a write never", () =>
    withConfluence(
      (confluence, double) =>
        Effect.gen(function* () {
          const breaks = () =>
            double.next((_, response) => {
              response.writeHead(200, { "content-type": "application/json", "content-length": "99" })
              response.write('{"results":[', () => response.destroy())
              return true
            })
          breaks()
          assert.strictEqual(yield* Stream.runCount(confluence.pages()), 3)
          for (const write of [
            confluence.createPage({ spaceId: "1", title: "x" }),
            confluence.updatePage({ id: "101", title: "x", body: "", version: 1 }),
            confluence.deletePage("101"),
            confluence.addLabels("101", ["a"])
          ]) {
            const before = double.asked.length
            breaks()
            assert.strictEqual((yield* Effect.flip(write)).reason, "Unavailable")
            assert.strictEqual(double.asked.length, before + 1)
          }
        }),
      { settings: { retryDelay: "1 millis" } }
    )
  )

  it.live("a redirect to a login page is Authentication; an interruption in mid page leaves nothing", () =>
    withConfluence(
      (confluence, double) =>
        Effect.gen(function* () {
          double.next((_, response) => {
            response.writeHead(302, { location: "https://id.atlassian.com/login" }).end()
            return true
          })
          assert.strictEqual((yield* Effect.flip(confluence.getPage("101"))).reason, "Authentication")
          let half = false
          double.next(({ url }, response) => {
            if (!url.searchParams.has("cursor")) return false
            response.writeHead(200, { "content-type": "application/json" })
            response.write("{", () => {
              half = true
            })
            return true
          })
          const fiber = yield* Effect.fork(Stream.runDrain(confluence.pages({ pageSize: 5 })))
          yield* until(() => half)
          const exit = yield* Fiber.interrupt(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
        }),
      { pages: 20 }
    )
  )

  it.live("each call is one span, named as the operation", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const double = yield* ConfluenceDouble.start(12)
        const recorded = RecordingTracer.make()
        yield* Effect.gen(function* () {
          const { client } = yield* Confluence.make(settingsFor(double))
          yield* Stream.runDrain(client.pages({ pageSize: 5 }))
        }).pipe(Effect.scoped, Effect.withTracer(recorded.tracer))
        assert.strictEqual(recorded.spans.filter(({ name }) => name === "Confluence.pages").length, 3)
      })
    )
  )
})

// Never counted as run unless it is set: a site of one's own, with a space that may be written to.
const site = process.env["CONFLUENCE_TEST_URL"]
if (site !== undefined) {
  describe("Confluence, at CONFLUENCE_TEST_URL", () => {
    const email = process.env["CONFLUENCE_TEST_EMAIL"]
    const key = process.env["CONFLUENCE_TEST_SPACE"]
    const settings: Confluence.ConfluenceSettings = {
      url: site,
      token: Redacted.make(process.env["CONFLUENCE_TEST_TOKEN"] ?? ""),
      ...(email === undefined ? {} : { email })
    }
    layer(Confluence.layer(settings), { excludeTestServices: true, timeout: "60 seconds" })("the site", (it) => {
      it.effect("tells its spaces and pages, and what they say as Markdown", () =>
        Effect.gen(function* () {
          const { client } = yield* Confluence.Confluence
          yield* Stream.runDrain(Stream.take(client.spaces(), 3))
          yield* Stream.runForEach(Stream.take(client.pages({ bodyFormat: "storage" }), 50), (page) =>
            StorageFormat.toMarkdown(page.body?.storage?.value ?? "")
          )
          yield* Stream.runDrain(Stream.take(client.search("type = page"), 60))
        })
      )
      if (key === undefined) return
      it.effect("makes, changes and deletes a page", () =>
        Effect.gen(function* () {
          const { client } = yield* Confluence.Confluence
          const space = Option.getOrThrow(yield* client.findSpace(key))
          const body = yield* StorageFormat.fromMarkdown("# Hello\n\n> [!INFO]\n>\n> there\n")
          yield* Effect.acquireUseRelease(
            client.createPage({ spaceId: space.id, title: `A test of Underlay ${Date.now()}`, body }),
            ({ id }) =>
              Effect.gen(function* () {
                yield* client.updateWith(id, () => Effect.succeed({ body: "<p>changed</p>" }))
                const error = yield* Effect.flip(client.updatePage({ id, title: "a", body: "", version: 1 }))
                assert.deepStrictEqual(Confluence.conflictVersion(error), Option.some(2))
              }),
            ({ id }) => Effect.orDie(client.deletePage(id))
          )
        })
      )
    })
  })
}
