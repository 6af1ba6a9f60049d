#include "text/jinja.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "base/json.h"
#include "testing/paths.h"

namespace bantam::jinja {
namespace {

RenderOptions At20November() {
  RenderOptions options;
  options.now.tm_year = 126;
  options.now.tm_mon = 10;
  options.now.tm_mday = 20;
  options.now.tm_hour = 9;
  options.now.tm_min = 30;
  options.now.tm_wday = 5;
  options.now.tm_yday = 323;
  return options;
}

// The text, or "error: MESSAGE".
std::string Rendered(const std::string& source, const Json& context = Json::object(), const RenderOptions& options = At20November()) {
  const auto parsed = Template::Parse(source);
  if (!parsed.ok()) return "error: " + parsed.error().message();
  const Value value = FromJson(context);
  const auto text = parsed->Render(*value.dict(), options);
  return text.ok() ? text->bytes() : "error: " + text.error().message();
}

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Prompts that Jinja2 made of published models' templates, byte for byte.
void CheckCases(const std::string& folder, size_t expected_count) {
  const Json cases = Json::parse(ReadBytes(folder + "/cases.json"), nullptr, /*allow_exceptions=*/false);
  ASSERT_EQ(cases.size(), expected_count);
  for (const Json& row : cases) {
    const std::string name = row["template"].get<std::string>() + " " + row["case"].get<std::string>();
    const std::string got = Rendered(ReadBytes(folder + "/" + row["template"].get<std::string>()), row["context"]);
    if (row.contains("error")) {
      EXPECT_TRUE(got.starts_with("error: ")) << name;
    } else {
      EXPECT_EQ(got, row["expected"].get<std::string>()) << name;
    }
  }
}

TEST(JinjaReference, CommittedTemplates) { CheckCases(testing::DataPath("templates"), 72); }

TEST(JinjaReference, AllTemplates) {
  const std::string folder = testing::SharedPath("golden/templates");
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is absent";
  CheckCases(folder, 350);
}

struct Row {
  const char* source;
  const char* expected;  // what Jinja2 3.1 gives with the settings of model hubs
};

void Check(std::initializer_list<Row> rows, const Json& context = Json::object()) {
  for (const Row& row : rows) EXPECT_EQ(Rendered(row.source, context), row.expected) << row.source;
}

TEST(Jinja, WhiteSpaceControl) {
  Check({{"a\n", "a"},
         {"a\n\n", "a\n"},
         {"{% if true %}\nx\n{% endif %}\ny", "x\ny"},
         {"  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"},
         {"a  {% if true %}b{% endif %}", "a  b"},
         {"a {%- if true -%} b {%- endif -%} c", "abc"},
         {"a\n  {%+ if true %}b{% endif %}", "a\n  b"},
         {"{{ 1 }}\n{{ 2 }}", "1\n2"},
         {"{{- 1 -}}  \n {{ 2 }}", "12"},
         {"a {# note #} b", "a  b"},
         {"a\n {#- note -#} \n b", "ab"},
         {"{# x #}\ny", "y"},
         {"{% raw %}{{ x }}{% endraw %}!", "{{ x }}!"},
         {"a\r\nb", "a\nb"}});
}

TEST(Jinja, Expressions) {
  Check({{"{{ 1 + 2 * 3 }}", "7"},
         {"{{ (1 + 2) * 3 }}", "9"},
         {"{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 7 / 2 }}", "3 -4 1 2 1024 3.5"},
         {"{{ 'a' ~ 1 ~ none }}", "a1None"},
         {"{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }}", "True False"},
         {"{{ 'b' in 'abc' }} {{ 4 not in [1, 2] }} {{ 'k' in {'k': 1} }}", "True True True"},
         {"{{ not true or true }}", "True"},
         {"{{ 'yes' if x is defined else 'no' }}{{ 'gone' if false }}", "no"},
         {"{{ [1, 2, 3][-1] }} {{ 'hello'[1:3] }} {{ [1,2,3,4][::-1] }} {{ 'abc'[::2] }} {{ [1,2,3][5:] }}", "3 el [4, 3, 2, 1] ac []"},
         {"{{ {'a': [1, 'x', none, true, 1.5]} }}", "{'a': [1, 'x', None, True, 1.5]}"},
         {"{{ (1,) }} {{ () }} {{ (1, 2) }}", "(1,) () (1, 2)"},
         {"{{ 1e3 }} {{ 1e16 }} {{ 0.1 + 0.2 }} {{ 1.0 }} {{ 1e-5 }}", "1000.0 1e+16 0.30000000000000004 1.0 1e-05"},
         {"{{ 'a' 'b' }}", "ab"},
         {"{{ \"it's\" }} {{ ['it\\'s'] }} {{ 'a\\nb' }} {{ '\\u00e9' }}", "it's [\"it's\"] a\nb \xc3\xa9"},
         {"{{ 'x' * 3 }}{{ [0] * 2 }}", "xxx[0, 0]"},
         {"{{ true and 'a' or 'b' }} {{ '' or 'b' }}", "a b"},
         {"{{ 1 == 1.0 }} {{ '1' == 1 }} {{ [1] == [1] }} {{ none == false }}", "True False True False"},
         {"{{ 3 is divisibleby 3 }} {{ 3 is odd }} {{ x is undefined }} {{ 'A' is upper }} {{ [] is iterable }} {{ 1 is not string }}",
          "True True True True True True"},
         {"{{ undefined_name }}|{{ undefined_name | default('d') }}|{{ '' | default('d', true) }}", "|d|d"}});
}

TEST(Jinja, Statements) {
  Check({{"{% for i in range(3) %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "1/3,2/3,3/3"},
         {"{% for i in [] %}x{% else %}none{% endfor %}", "none"},
         {"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"},
         {"{% for i in range(6) if i is odd %}{{ i }}{% endfor %}", "135"},
         {"{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "013"},
         {"{% for i in 'ab' %}{{ loop.previtem }}{{ i }}{{ loop.nextitem }};{% endfor %}", "ab;ab;"},
         {"{% for i in [1, 2] %}{{ loop.cycle('odd', 'even') }}{% endfor %}", "oddeven"},
         {"{% for n in [[1, [2]], [3]] recursive %}{{ n if n is number else '(' ~ loop(n) ~ ')' }}{% endfor %}", "(1(2))(3)"},
         {"{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "1"},
         {"{% set ns = namespace(x=1) %}{% for i in [1] %}{% set ns.x = 2 %}{% endfor %}{{ ns.x }}", "2"},
         {"{% if false %}a{% elif true %}{% set y = 5 %}b{% endif %}{{ y }}", "b5"},
         {"{% set a, b = 1, 2 %}{{ a + b }}", "3"},
         {"{% set t %}x{{ 1 }}{% endset %}{{ t | upper }}", "X1"},
         {"{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, b=3) }}", "1-2 1-3"},
         {"{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{% endcall %}", "<x>"},
         {"{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "3210"},
         {"{% with a = 1 %}{{ a }}{% endwith %}{{ a }}", "1"},
         {"{% filter upper %}abc{% endfilter %}", "ABC"},
         {"{% generation %}kept{% endgeneration %}", "kept"}});
}

TEST(Jinja, FiltersAndMethods) {
  Check(
      {{"{{ ' a ' | trim }}|{{ 'xax'.strip('x') }}|{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}", "a|a|['a', 'b', '', 'c']|['a', 'b']"},
       {"{{ 'a-b-c'.split('-', 1) }} {{ 'a-b-c'.rsplit('-', 1) }}", "['a', 'b-c'] ['a-b', 'c']"},
       {"{{ [3, 1, 2] | sort }} {{ ['b', 'A'] | sort }} {{ [1, 2] | reverse | list }} {{ [1, 1, 2] | unique | list }}",
        "[1, 2, 3] ['A', 'b'] [2, 1] [1, 2]"},
       {"{{ {'b': 1, 'a': 2} | dictsort }}", "[('a', 2), ('b', 1)]"},
       {"{{ [{'n': 1}, {'n': 2}] | map(attribute='n') | join('+') }}", "1+2"},
       {"{{ [{'n': 1}, {'n': 2}] | selectattr('n', 'equalto', 2) | list }}", "[{'n': 2}]"},
       {"{{ [1, 2, 3] | select('odd') | list }} {{ [0, 1, none] | reject('none') | list }}", "[1, 3] [0, 1]"},
       {"{{ {'a': 'x\"y', 'b': [1, 2.0, true, none]} | tojson }}", "{\"a\": \"x\\\"y\", \"b\": [1, 2.0, true, null]}"},
       {"{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"},
       {"{{ 'h\xc3\xa9' | length }} {{ 'h\xc3\xa9' | upper }} {{ 'h\xc3\xa9'[1] }} {{ 'h\xc3\xa9' | tojson }}",
        "2 H\xc3\x89 \xc3\xa9 \"h\xc3\xa9\""},
       {"{{ 'hello world' | title }} {{ 'HELLO' | capitalize }} {{ 'a' | center(3) }}|", "Hello World Hello  a |"},
       {"{{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.find('c') }} {{ 'abc'.startswith(('x', 'a')) }} {{ '7'.zfill(3) }}", "bba 2 True 007"},
       {"{{ [1, 2, 3] | sum }} {{ [1, 3, 2] | max }} {{ -3 | abs }} {{ 2.5 | round }} {{ '12' | int }} {{ 'x' | int(7) }} {{ '1.5' | float "
        "}}",
        "6 3 3 2.0 12 7 1.5"},
       {"{{ 'a\nb' | indent(2) }}", "a\n  b"},
       {"{{ '%s-%03d' | format('x', 7) }} {{ '{} {n}'.format(1, n=2) }}", "x-007 1 2"},
       {"{{ 'a&b' | e }} {{ '<' | safe + '<' }}", "a&amp;b <&lt;"},
       {"{{ {'a': 1}.get('b', 'none') }} {{ {'a': 1}.keys() | list }} {{ {'items': 1}['items'] }}", "none ['a'] 1"},
       {"{{ strftime_now('%Y-%m-%d %H:%M %B %-d %a') }}", "2026-11-20 09:30 November 20 Fri"},
       {"{{ strftime_now('%c|%x|%X|%U|%W|%u|%C|%f|%Z|%z|%r') }}",
        "Fri Nov 20 09:30:00 2026|11/20/26|09:30:00|46|46|5|20|000000|||09:30:00 AM"},
       {"{{ 0x1F + 0b1_01 + 0o17 + 1_000 }}", "1051"},
       {"{{ [{'a': 1, 'b': 2}, {'a': 0, 'b': 3}, {'a': 1, 'b': 1}] | sort(attribute='a,b') | map(attribute='b') | join }}", "312"},
       {"{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, b=3) }}", "1(2,){'b': 3}"},
       {"{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ 'x' in ['x'] | first }}", "[[1, 2], [3, 4], [5]] True"}});
}

TEST(Jinja, ErrorsNameTheLine) {
  Check({{"a\n{{ raise_exception('no') }}", "error: template line 2: the template refuses: no"},
         {"\n\n{{ x.y }}", "error: template line 3: x is undefined and has no attribute y"},
         {"{{ 1 + 'a' }}", "error: template line 1: a int + a string"},
         {"{% if %}", "error: template line 1: %} where an expression was expected"},
         {"{{ 'x", "error: template line 1: a string without its end"},
         {"{% for x in y %}", "error: template line 1: the end of the template where {% endfor %} was expected"},
         {"{% include 'x' %}", "error: template line 1: {% include %} is not supported; a chat template stands alone"},
         {"{{ 1 | frobnicate }}", "error: template line 1: the filter frobnicate is not known"},
         {"{{ [].append(1) }}", "error: template line 1: the method append of a list is not available: templates change nothing"},
         {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "error: template line 1: macro 'm' takes not more than 1 argument(s)"},
         {"{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "error: template line 1: macro 'm' takes no keyword argument 'b'"},
         {"{{ 1 // 0 }}", "error: template line 1: division by zero"},
         {"{{ 9223372036854775807 + 1 }}", "error: template line 1: a number beyond 64 bits"}});
}

// Foreign code: whatever it does, it ends.
TEST(Jinja, Formats) {
  Check({{"{{ '%+s|%5s|%-5s|%.2s|%%' % ('a', 'b', 'c', 'def') }}", "a|    b|c    |de|%"},
         {"{{ '%05d|%+d|% d|%x|%#X|%o|%-4d|%.3d' % (-42, 7, 7, 255, 255, 8, 3, 5) }}", "-0042|+7| 7|ff|0XFF|10|3   |005"},
         {"{{ '%.2f|%08.3f|%e|%g|%G' % (2.675, -1.5, 12345.678, 1e-7, 1e20) }}", "2.67|-001.500|1.234568e+04|1e-07|1E+20"},
         {"{{ '%s %r' % ([1, 'x'], 'y') }}", "[1, 'x'] 'y'"},
         {"{{ '%(a)s-%(b)03d' % {'a': 1, 'b': 2} }}", "1-002"},
         {"{{ 42 | round }} {{ 2.675 | round(2) }} {{ 1.15 | round(1) }} {{ 2.5 | round }}", "42 2.67 1.1 2.0"},
         {"{{ 'x' | int(default=none) }} {{ '7' | int }} {{ 'x' | int(3) }}", "None 7 3"},
         {"{{ 'y' if [] | select else 'n' }}{{ 'y' if [] | select | list else 'n' }}", "yn"},
         {"{{ {'_u': 7}._u }}{{ {}.__class__ }}", "7"},
         {"a\n{% raw %}\n  {{ x }}\n{% endraw %}\nb", "a\n\n  {{ x }}\nb"}});
  for (const char* source : {"{{ '%..f' % 1.0 }}", "{{ '%99999d' % 1 }}", "{{ '%' % 1 }}", "{{ '%d' % ('nan' | float) }}", "{{ '%y' % 1 }}",
                             "{{ '%d' % 'a' }}", "{{ '%s %s' % 'a' }}"}) {
    EXPECT_TRUE(Rendered(source).starts_with("error: ")) << source;
  }
}

// What is small to hold can be large to write out or slow to look through.
TEST(Jinja, WorkIsMetered) {
  std::string doubled = "{% set a = ['x', 'y'] %}";
  for (int i = 0; i < 40; ++i) doubled += "{% set a = [a, a] %}";
  const std::string large = "{% set x = 'a' * 10000000 %}";
  for (const std::string& source : {
           doubled + "{{ a }}",
           doubled + "{{ a | tojson }}",
           doubled + "{{ a == a }}",
           large + "{{ 'b'.center(10000, x) }}",
           large + "{{ ([1] * 10000) | join(x) }}",
           large + "{{ ([x] * 10000) | map('string') | list }}",
           large + "{{ ([x] * 10000) | sort }}",
           large + "{{ (x ~ 'b') in (x ~ x) }}",
           std::string("{{ [{'a': 1}, {'a': 1}] | sort(attribute='a,' * 400000 ~ 'a') }}"),
           large + "{{ x.strip('b' ~ x) }}",
           large + "{% for i in range(99999) %}{% if x | length > 3 %}{% endif %}{% endfor %}",
           std::string("{% for i in range(99999) %}{% if [1] | batch(100000, 'x') %}{% endif %}{% endfor %}"),
           std::string("{{ (',' * 30000000).split(',') }}"),
       }) {
    EXPECT_TRUE(Rendered(source).starts_with("error: ")) << source.substr(source.size() - 60);
  }
  EXPECT_EQ(Rendered("{% set x = ('a' ~ m) * 200000 %}{{ x | list | length }}", {{"m", "b"}}), "400000");
}

// Chains at every level of precedence and in every parenthesis make a tree that is deeper than any stack.
TEST(Jinja, DeepTreesAreFreed) {
  std::string e = "a";
  for (size_t k = 0; k < 190; ++k) {
    e = "(" + e + ")";
    for (const char* link : {".a", "|e", "**1", "*1", "~1", "+1", " and 1", " or 1"}) {
      for (size_t i = 0; i < k; ++i) e += link;
    }
  }
  EXPECT_TRUE(Rendered("{{ " + e + " }}").starts_with("error: "));
}

TEST(Jinja, LimitsHold) {
  for (const char* source : {
           "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
           "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
           "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
           "{{ 'x' * 99999999999 }}",
           "{{ [0] * 99999999999 }}",
           "{{ range(100000000) }}",
           "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}",
           "{% set ns = namespace() %}{% set ns.x = ns %}",
           "{{ 'x'.center(99999999) }}",
           "{{ 'aaaaaaaaaaaaaaaa'.replace('', 'x' * 9999999) }}",
       }) {
    EXPECT_TRUE(Rendered(source).starts_with("error: ")) << source;
  }
  EXPECT_TRUE(Rendered(std::string(5000, '(')).find("error") == std::string::npos) << "text is no expression";
  EXPECT_TRUE(Rendered("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}")
                  .starts_with("error: template line 1: nested deeper than 200"));
  EXPECT_TRUE(Rendered("{{ 1" + std::string(5000, '+') + "1 }}").starts_with("error: "));
  std::string sum = "{{ 1";
  for (int i = 0; i < 5000; ++i) sum += " + 1";
  EXPECT_TRUE(Rendered(sum + " }}").starts_with("error: template line 1: nested deeper than 200"));
}

TEST(Jinja, TimeIsLimited) {
  const auto parsed = Template::Parse("{% for i in range(90000) %}{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  RenderOptions options;
  EXPECT_TRUE(parsed->Render(Dict(), options).ok());
  options.limits.time_ms = -1;  // over before it begins
  const auto rendered = parsed->Render(Dict(), options);
  ASSERT_FALSE(rendered.ok());
  EXPECT_EQ(rendered.error().code(), Code::kExhausted);
}

}  // namespace
}  // namespace bantam::jinja
