#include "fleet/store.h"

#include <gtest/gtest.h>

#include "testing/download_tools.h"

namespace bantam {
namespace {

using testing::Bench;

class Store : public ::testing::Test {
 protected:
  std::vector<StoredModel> List() { return ListStore(bench.files, bench.disk, bench.folder / "models").value(); }
  void Write(std::string_view name, std::string_view text) { bench.folder.Write(fmt::format("models/{}", name), text); }
  bool Has(std::string_view name) { return bench.folder.Has(fmt::format("models/{}", name)); }
  Status Remove(const std::string& name) {
    BANTAM_ASSIGN(const StoredModel model, FindStored(bench.files, bench.disk, bench.folder / "models", name));
    return RemoveStored(bench.disk, bench.folder / "models", model);
  }
  Bench bench;
};

TEST_F(Store, NoFolderIsNoModel) { EXPECT_TRUE(List().empty()); }

TEST_F(Store, FilesFoldersAndUnfinished) {
  Write("a.gguf", "12345");
  Write("a.gguf.tune.json", "{}");
  Write("b.bantam", "123");
  Write("c/config.json", "{}");
  Write("c/sub/weights.safetensors", "12345678");
  Write("d.gguf.part", "1234");
  Write("d.gguf.part.json", "{}");
  Write("e.gguf.part-1", "12");
  Write("e.gguf.part-2.part", "1");
  Write("f.part/config.json", "{}");
  Write("g/notes.txt", "no model");
  Write("notes.txt", "no model");
  Write("a.gguf.lock", "");
  Write("e.gguf.part-2.part.json.part-Ab12Cd", "{}");
  Write("my.particle.gguf", "1");
  Write("other.part.gguf", "1");
  Write("your.particle.gguf.part", "12");
  Write("your.particle.gguf.part.json", "{}");
  const auto models = List();
  ASSERT_EQ(models.size(), 9u);
  const std::vector<std::tuple<std::string, bool, bool, uint64_t>> expected = {{"a.gguf", false, false, 5},
                                                                               {"b.bantam", false, false, 3},
                                                                               {"c", true, false, 10},
                                                                               {"d.gguf", false, true, 4},
                                                                               {"e.gguf", false, true, 3},
                                                                               {"f", true, true, 2},
                                                                               {"my.particle.gguf", false, false, 1},
                                                                               {"other.part.gguf", false, false, 1},
                                                                               {"your.particle.gguf", false, true, 2}};
  for (size_t i = 0; i < models.size(); ++i) {
    EXPECT_EQ(std::make_tuple(models[i].name, models[i].folder, models[i].unfinished, models[i].size_bytes), expected[i]);
  }
}

// A GGUF in parts is a folder of them; its neighbours in the folder of another model are none.
TEST_F(Store, ListsPartsAsOneModel) {
  for (const char* name :
       {"m/m-00001-of-00002.gguf", "m/m-00002-of-00002.gguf", "n.part/n-00001-of-00002.gguf", "o/o-00002-of-00002.gguf"}) {
    Write(name, "12345");
  }
  const auto models = List();
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(std::make_tuple(models[0].name, models[0].folder, models[0].unfinished, models[0].size_bytes),
            std::make_tuple(std::string("m"), true, false, uint64_t{10}));
  EXPECT_EQ(std::make_tuple(models[1].name, models[1].unfinished), std::make_tuple(std::string("n"), true));
  EXPECT_TRUE(Remove("m").ok());
  EXPECT_TRUE(Remove("n").ok());
  EXPECT_TRUE(List().empty());
}

TEST_F(Store, RemovesWithCompanions) {
  for (const char* name : {"a.gguf", "a.gguf.tune.json", "a.gguf.part", "a.gguf.part.json", "b.bantam", "c/config.json", "c/sub/x",
                           "c.tune.json", "ab.gguf", "d.gguf.part-1", "d.gguf.part-2.part", "a.part.gguf"}) {
    Write(name, "x");
  }
  for (const char* name : {"a", "b", "c", "d.gguf"}) {
    const Status removed = Remove(name);
    EXPECT_TRUE(removed.ok()) << removed.error().message();
  }
  const auto left = MakeDisk()->Entries(bench.folder / "models").value();
  ASSERT_EQ(left.size(), 2u);
  EXPECT_EQ(left[0].name, "a.part.gguf");
  EXPECT_EQ(left[1].name, "ab.gguf");
}

// What is in the way of a pull can be removed, whatever it is.
TEST_F(Store, RemovesWhatHasTheName) {
  std::filesystem::create_directories(bench.folder / "models/empty");
  Write("odd/notes.txt", "123");
  Write("held.gguf.lock", "");
  EXPECT_TRUE(List().empty());
  EXPECT_EQ(FindStored(bench.files, bench.disk, bench.folder / "models", "odd")->size_bytes, 3u);
  EXPECT_TRUE(Remove("empty").ok());
  EXPECT_TRUE(Remove("odd").ok());
  EXPECT_FALSE(Remove("held.gguf.lock").ok());
  EXPECT_FALSE(Has("empty"));
  EXPECT_FALSE(Has("odd"));
}

// Interrupted anywhere, it leaves no half model under its name, and can be done again.
TEST_F(Store, EveryFaultOfARemoval) {
  bool blown = true;
  for (int n = 1; blown && n < 50; ++n) {
    for (const char* name : {"a/config.json", "a/w.safetensors", "a.tune.json", "a.part/x", "a.part.json"}) Write(name, "x");
    bench.fuse.Set(n);
    const Status removed = Remove("a");
    blown = bench.fuse.TakeBlown();
    bench.fuse.Set(0);
    EXPECT_EQ(removed.ok(), !blown) << n;
    if (Has("a")) {
      EXPECT_TRUE(Has("a/config.json") && Has("a/w.safetensors")) << n;
    }
    if (Has("a") || Has("a.part")) {
      EXPECT_TRUE(Remove("a").ok()) << n;
      EXPECT_TRUE(List().empty()) << n;
    }
  }
  EXPECT_FALSE(blown);
}

// A removal that is cut off within the folder: what is left has no model's name.
TEST_F(Store, LosesItsNameFirst) {
  Write("a/config.json", "x");
  Write("a/w.safetensors", "x");
  bench.disk.removed = [&](const std::string& path) { EXPECT_FALSE(path.ends_with("/a")) << path; };
  EXPECT_TRUE(Remove("a").ok());
  EXPECT_TRUE(List().empty());
}

TEST_F(Store, NothingOutsideIsRemoved) {
  bench.folder.Write("mine.gguf", "x");
  bench.folder.Write("other/config.json", "x");
  Write("a.gguf", "x");
  for (const char* name : {"", ".", "..", "../mine.gguf", "../mine", "../other", "/etc", "a.gguf/../../mine.gguf"}) {
    EXPECT_FALSE(Remove(name).ok()) << name;
  }
  // A link goes, what it leads to stays.
  std::filesystem::create_directory_symlink(bench.folder / "other", bench.folder / "models/link");
  std::filesystem::create_symlink(bench.folder / "mine.gguf", bench.folder / "models/mine.gguf");
  std::filesystem::create_directories(bench.folder / "models/c");
  std::filesystem::create_directory_symlink(bench.folder / "other", bench.folder / "models/c/inner");
  Write("c/config.json", "x");
  for (const char* name : {"link", "mine", "c"}) EXPECT_TRUE(Remove(name).ok()) << name;
  EXPECT_FALSE(Has("link"));
  EXPECT_TRUE(bench.folder.Has("other/config.json"));
  EXPECT_TRUE(bench.folder.Has("mine.gguf"));
}

TEST_F(Store, NotWhileItIsFetched) {
  Write("a.gguf.part", "x");
  const auto disk = MakeDisk();
  const auto lock = disk->Lock(bench.folder / "models/a.gguf.lock");
  ASSERT_TRUE(lock.ok());
  const Status removed = Remove("a.gguf");
  ASSERT_FALSE(removed.ok());
  EXPECT_EQ(removed.error().code(), Code::kUnavailable);
  EXPECT_TRUE(Has("a.gguf.part"));
}

}  // namespace
}  // namespace bantam
