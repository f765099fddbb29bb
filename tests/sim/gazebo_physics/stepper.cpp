// Steps the world of sim/gazebo/tabletop.sdf in ign-physics with its DART engine, without a server.
//
// usage: stepper WORLD.sdf DART_PLUGIN.so
//
// Reads commands from stdin, one a line, and answers each with one line of JSON on stdout. Lengths
// in metres, angles in radians, in the frame of the world.
//   reset Q1 .. Q6 F1 F2 (X Y Z YAW of each block)   joints and blocks at rest in that state
//   step N V1 .. V6 G1 G2     N steps with joint velocities V; G are goals of the finger positions
//   gravity X Y Z
// Answer: {"joints": [8], "blocks": [[12], ...], "hand": [12]}, of a body its position and its axes
// x, y, z. The first line of the output names collision detector, solver and step size.
//
// What the server does for this world and ign-physics does not: <dart> of the SDF is given to the
// engine as in gz-sim 8 (src/SdfEntityCreator.cc), and the fingers are driven by gz-math's PID as
// in its JointPositionController.

#include <array>
#include <chrono>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <ignition/math/PID.hh>
#include <ignition/physics/ForwardStep.hh>
#include <ignition/physics/FrameSemantics.hh>
#include <ignition/physics/FreeGroup.hh>
#include <ignition/physics/GetEntities.hh>
#include <ignition/physics/Joint.hh>
#include <ignition/physics/RequestEngine.hh>
#include <ignition/physics/World.hh>
#include <ignition/physics/sdf/ConstructCollision.hh>
#include <ignition/physics/sdf/ConstructJoint.hh>
#include <ignition/physics/sdf/ConstructLink.hh>
#include <ignition/physics/sdf/ConstructModel.hh>
#include <ignition/physics/sdf/ConstructWorld.hh>
#include <ignition/plugin/Loader.hh>
#include <sdf/Physics.hh>
#include <sdf/Root.hh>
#include <sdf/World.hh>

namespace physics = ignition::physics;

using Features =
    physics::FeatureList<physics::ForwardStep, physics::GetEntities, physics::LinkFrameSemantics,
                         physics::GetBasicJointState, physics::SetBasicJointState,
                         physics::SetJointVelocityCommandFeature, physics::FindFreeGroupFeature,
                         physics::SetFreeGroupWorldPose, physics::SetFreeGroupWorldVelocity,
                         physics::CollisionDetector, physics::Solver, physics::Gravity,
                         physics::sdf::ConstructSdfCollision, physics::sdf::ConstructSdfJoint,
                         physics::sdf::ConstructSdfLink, physics::sdf::ConstructSdfModel,
                         physics::sdf::ConstructSdfWorld>;
using World = physics::World3dPtr<Features>;
using Model = physics::Model3dPtr<Features>;
using Joint = physics::Joint3dPtr<Features>;

const std::array<const char*, 6> kArm = {"base_yaw",     "shoulder",    "elbow",
                                         "forearm_roll", "wrist_pitch", "wrist_roll"};
const std::array<const char*, 2> kFingers = {"finger_left", "finger_right"};
const std::array<const char*, 3> kBlocks = {"red_block", "green_block", "blue_block"};

// The gains of the world's JointPositionController for one joint.
ignition::math::PID FingerController(const sdf::ElementPtr& arm, const std::string& joint) {
    for (auto plugin = arm->FindElement("plugin"); plugin;
         plugin = plugin->GetNextElement("plugin")) {
        if (plugin->Get<std::string>("name").find("JointPositionController") == std::string::npos ||
            plugin->Get<std::string>("joint_name") != joint)
            continue;
        auto value = [&](const char* name, double otherwise) {
            return plugin->HasElement(name) ? plugin->Get<double>(name) : otherwise;
        };
        // Defaults of JointPositionController.
        return ignition::math::PID(value("p_gain", 1.0), value("i_gain", 0.1),
                                   value("d_gain", 0.01), value("i_max", 1.0), value("i_min", -1.0),
                                   value("cmd_max", 1000.0), value("cmd_min", -1000.0));
    }
    throw std::runtime_error("no JointPositionController for " + joint);
}

class Cell {
  public:
    Cell(const sdf::World& description, const std::string& plugin) {
        ignition::plugin::Loader loader;
        loader.LoadLib(plugin);
        auto engine = physics::RequestEngine3d<Features>::From(
            loader.Instantiate("ignition::physics::dartsim::Plugin"));
        if (!engine) throw std::runtime_error(plugin + " lacks a feature or is not a DART plugin");
        world_ = engine->ConstructWorld(description);
        auto options = description.PhysicsDefault();
        step_ = options->MaxStepSize();
        GiveDartOptions(options->Element());
        Model arm = world_->GetModel("arm");
        for (auto name : kArm) arm_.push_back(arm->GetJoint(name));
        for (auto name : kFingers) {
            fingers_.push_back(arm->GetJoint(name));
            controllers_.push_back(
                FingerController(description.ModelByName("arm")->Element(), name));
        }
        hand_ = arm->GetLink("hand");
        for (auto name : kBlocks) blocks_.push_back(world_->GetModel(name));
        input_.Get<std::chrono::steady_clock::duration>() =
            std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                std::chrono::duration<double>(step_));
        std::cout << "{\"collision_detector\": \"" << world_->GetCollisionDetector()
                  << "\", \"solver\": \"" << world_->GetSolver() << "\", \"step\": " << step_ << "}"
                  << std::endl;
    }

    void Execute(const std::string& line) {
        std::istringstream words(line);
        std::string command;
        words >> command;
        if (command == "reset") {
            Reset(words);
        } else if (command == "step") {
            Step(words);
        } else if (command == "gravity") {
            Eigen::Vector3d gravity;
            for (int i = 0; i < 3; ++i) gravity[i] = Number(words);
            world_->SetGravity(gravity);
        } else {
            throw std::runtime_error("unknown command: " + line);
        }
        Answer();
    }

  private:
    static double Number(std::istringstream& words) {
        double value;
        if (!(words >> value)) throw std::runtime_error("a number is missing");
        return value;
    }

    void GiveDartOptions(const sdf::ElementPtr& options) {
        if (!options || !options->HasElement("dart")) return;
        auto dart = options->GetElement("dart");
        if (dart->HasElement("collision_detector"))
            world_->SetCollisionDetector(dart->Get<std::string>("collision_detector"));
        if (dart->HasElement("solver") && dart->GetElement("solver")->HasElement("solver_type"))
            world_->SetSolver(dart->GetElement("solver")->Get<std::string>("solver_type"));
    }

    static void Rest(const Joint& joint, double position) {
        joint->SetPosition(0, position);
        joint->SetVelocity(0, 0.0);
    }

    void Reset(std::istringstream& words) {
        for (auto& joint : arm_) Rest(joint, Number(words));
        for (std::size_t i = 0; i < fingers_.size(); ++i) {
            Rest(fingers_[i], Number(words));
            controllers_[i].Reset();
        }
        for (auto& block : blocks_) {
            auto group = block->FindFreeGroup();
            Eigen::Isometry3d pose = Eigen::Isometry3d::Identity();
            for (int i = 0; i < 3; ++i) pose.translation()[i] = Number(words);
            pose.rotate(Eigen::AngleAxisd(Number(words), Eigen::Vector3d::UnitZ()));
            group->SetWorldPose(pose);
            group->SetWorldLinearVelocity(Eigen::Vector3d::Zero());
            group->SetWorldAngularVelocity(Eigen::Vector3d::Zero());
        }
    }

    void Step(std::istringstream& words) {
        const int count = static_cast<int>(Number(words));
        std::vector<double> speeds, goals;
        for (std::size_t i = 0; i < arm_.size(); ++i) speeds.push_back(Number(words));
        for (std::size_t i = 0; i < fingers_.size(); ++i) goals.push_back(Number(words));
        const std::chrono::duration<double> period(step_);
        for (int k = 0; k < count; ++k) {
            for (std::size_t i = 0; i < arm_.size(); ++i) arm_[i]->SetVelocityCommand(0, speeds[i]);
            for (std::size_t i = 0; i < fingers_.size(); ++i)
                fingers_[i]->SetForce(
                    0, controllers_[i].Update(fingers_[i]->GetPosition(0) - goals[i], period));
            world_->Step(output_, state_, input_);
        }
    }

    void Answer() {
        std::cout << "{\"joints\": [";
        for (auto& joint : arm_) std::cout << joint->GetPosition(0) << ", ";
        std::cout << fingers_[0]->GetPosition(0) << ", " << fingers_[1]->GetPosition(0)
                  << "], \"blocks\": [";
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            if (i) std::cout << ", ";
            Print(blocks_[i]->GetLink(0)->FrameDataRelativeToWorld().pose);
        }
        std::cout << "], \"hand\": ";
        Print(hand_->FrameDataRelativeToWorld().pose);
        std::cout << "}" << std::endl;
    }

    // Position, and the axes x, y, z of the body one after another.
    static void Print(const Eigen::Isometry3d& pose) {
        const auto values = pose.matrix().topRows<3>();
        std::cout << "[" << values(0, 3) << ", " << values(1, 3) << ", " << values(2, 3);
        for (int i = 0; i < 9; ++i) std::cout << ", " << values(i % 3, i / 3);
        std::cout << "]";
    }

    World world_;
    std::vector<Joint> arm_, fingers_;
    std::vector<ignition::math::PID> controllers_;
    physics::Link3dPtr<Features> hand_;
    std::vector<Model> blocks_;
    double step_ = 0.0;
    physics::ForwardStep::Input input_;
    physics::ForwardStep::State state_;
    physics::ForwardStep::Output output_;
};

int main(int argc, char** argv) {
    if (argc != 3) {
        std::cerr << "usage: stepper WORLD.sdf DART_PLUGIN.so\n";
        return 2;
    }
    sdf::Root root;
    // Errors of names do not keep a server from loading a world; nor do they here.
    for (const auto& error : root.Load(argv[1])) std::cerr << error.Message() << "\n";
    const sdf::World* description = root.WorldByIndex(0);
    if (!description) return 1;
    std::cout.precision(9);
    try {
        Cell cell(*description, argv[2]);
        for (std::string line; std::getline(std::cin, line);) cell.Execute(line);
    } catch (const std::exception& error) {
        std::cerr << "stepper: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
